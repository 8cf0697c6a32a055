#!/usr/bin/env -S sh -c 'exec "$(dirname "$0")/../.venv/bin/python" -X utf8 "$0" "$@"'
"""Apply a changed Serve config to the running application without downtime, and report the outcome.

scripts/deploy.py configs/local.yaml

A change of a Detector's ``user_config`` (model, detect, batcher) needs no restart, and no request fails. If new weights
cannot be served, the current model stays in use. This command then prints the reason and exits with status 1. Any other
change restarts the replicas, one at a time.

--address or RAY_DASHBOARD_ADDRESS sets the address of Ray's dashboard (default: http://127.0.0.1:8265). --url or
SIGHTLINE_URL sets the address of the application (default: http://127.0.0.1:8000). SIGHTLINE_KEY sets the API key, if
the application requires one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx

from serve_app.cli.output import print_any_text
from serve_app.client import ApiError, Client, ConnectionFailed
from serve_app.deployments import preflight
from serve_app.errors import StartError
from serve_app.schemas.models import ModelStatus
from serve_app.types import Json

APPLICATIONS = "/api/serve/applications/"  # path in the dashboard's API
_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.5
_STATUS_TIMEOUT_S = 60.0  # long, because a busy Detector answers late
_FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}


class DeployRefused(Exception):
    """The running application does not match the config. The message says why."""


def main() -> None:
    """Deploy a config. If the application does not match the config afterwards, say why and exit with status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a Serve config in YAML")
    parser.add_argument("--address", default=os.environ.get("RAY_DASHBOARD_ADDRESS", "http://127.0.0.1:8265"))
    parser.add_argument("--url", default=os.environ.get("SIGHTLINE_URL", "http://127.0.0.1:8000"))
    print_any_text()
    options = parser.parse_args()
    try:
        # The API key is not an argument, because every user of the machine can see the arguments of a process.
        client = Client(options.url)
    except ValueError as exc:
        parser.error(f"--{exc}")
    try:
        config = preflight.read(options.config)
        preflight.check_args(config)
        deploy(config, options.address, tell=lambda status: print(status, file=sys.stderr))
        with client:
            models = settled_models(client)
        for model in models:
            print(f"{model.name}: {model.state}" + (f", {model.model} {model.version}" if model.model else ""))
        check_changed(models)
    except StartError as exc:
        sys.exit(exc.detail)
    except DeployRefused as exc:
        sys.exit(str(exc))
    except (httpx.TransportError, ConnectionFailed) as exc:
        sys.exit(f"no server responds: start the application with scripts/serve, or set --url and --address ({exc})")
    except KeyboardInterrupt:
        sys.exit(130)


def dashboard(address: str) -> httpx.Client:
    """Return a client for Ray's dashboard.

    The client sends Ray's token, because configs/serve.env makes the token mandatory.
    """
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        with suppress(OSError, RuntimeError):  # ignore a missing token file or home directory
            token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser().read_text().strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=address, headers=headers, timeout=_TIMEOUT_S, trust_env=False)


def deploy(config: Json, address: str, tell: Callable[[str], None] = lambda _: None) -> None:
    """Deploy the config, and wait until every application is running. Pass Serve's progress to ``tell``.

    Raise DeployRefused if an application cannot be deployed, and httpx.TransportError if the dashboard does not answer.
    """
    reported = ""
    names = [application.get("name", "default") for application in config["applications"]]
    with dashboard(address) as http:
        _checked(http.put(APPLICATIONS, json=config))
        while True:
            applications = _checked(http.get(APPLICATIONS)).json()["applications"]
            for name in names:
                if applications[name]["status"] in _FAILED:
                    raise DeployRefused(f"{name} cannot be deployed: {applications[name]['message']}")
            if all(applications[name]["status"] == "RUNNING" for name in names):
                return
            progress = "; ".join(f"{name}: {_status(applications[name])}" for name in names)
            if progress != reported:
                tell(reported := progress)
            time.sleep(_POLL_INTERVAL_S)


def settled_models(client: Client) -> list[ModelStatus]:
    """Wait until no model is being changed, and return the status of every model.

    Raise DeployRefused if a model stays unavailable, and ConnectionFailed if the application does not answer.
    """
    expires_at_s = time.monotonic() + _STATUS_TIMEOUT_S
    while True:
        models = _models(client)
        silent = [model.name for model in models if model.state == "unavailable"] if models else ["the application"]
        if not silent:
            if all(model.state != "changing" for model in models):
                return models
            expires_at_s = time.monotonic() + _STATUS_TIMEOUT_S
        elif time.monotonic() > expires_at_s:
            raise DeployRefused(
                f"the outcome is unknown: {', '.join(silent)} did not answer within {_STATUS_TIMEOUT_S:g} s; try again"
            )
        time.sleep(_POLL_INTERVAL_S)


def check_changed(models: list[ModelStatus]) -> None:
    """Raise DeployRefused if the service refused to change a model."""
    if refused := [f"{one.name} was not changed: {one.refused_change}" for one in models if one.refused_change]:
        raise DeployRefused("; ".join(refused))


def _models(client: Client) -> list[ModelStatus]:
    """Return the status of every model, or an empty list if the application is too busy to answer."""
    try:
        return client.models()
    except ApiError as exc:
        if exc.is_retryable:
            return []
        raise DeployRefused(f"{client.url} returned {exc.status_code}: {exc}") from exc


def _status(application: Json) -> str:
    """Describe the status of an application, and of each of its deployments that is not yet healthy."""
    waiting = [
        f"{name} {one['status']}" + (f" ({one['message']})" if one["message"] else "")
        for name, one in application.get("deployments", {}).items()
        if one["status"] != "HEALTHY"
    ]
    return " ".join([application["status"], *waiting])


def _checked(response: httpx.Response) -> httpx.Response:
    if response.status_code != 200:
        raise DeployRefused(f"{response.url} returned {response.status_code}: {response.text[-500:]}")
    return response


if __name__ == "__main__":
    main()

#!/usr/bin/env -S sh -c 'exec "$(dirname "$0")/../.venv/bin/python" -X utf8 "$0" "$@"'
"""Change the running application to what a Serve config says, under way, and say what came of it.

scripts/deploy.py configs/local.yaml

What a Detector's ``user_config`` says (model, detect, batcher) changes without a restart and without a failed request.
Weights that cannot be served leave the model that is there, and this exits 1 with the reason. Other changes start
replicas anew, one after the other.

--address or RAY_DASHBOARD_ADDRESS is Ray's dashboard; http://127.0.0.1:8265 otherwise. SIGHTLINE_URL or --url is the
application, http://127.0.0.1:8000 otherwise, and SIGHTLINE_KEY the API key, if it needs one.
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

APPLICATIONS = "/api/serve/applications/"  # of the dashboard
_TIMEOUT_S = 60.0
_LOOK_PERIOD_S = 0.5
_AVAILABLE_WITHIN_S = 60.0  # a model that was deployed, but has too much to do to say so
_FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}


class DeployRefused(Exception):
    """Why the application is not what the config says, in a sentence."""


def main() -> None:
    """Exits 1 with a sentence where something is not as the config says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--address", default=os.environ.get("RAY_DASHBOARD_ADDRESS", "http://127.0.0.1:8265"))
    parser.add_argument("--url", default=os.environ.get("SIGHTLINE_URL", "http://127.0.0.1:8000"))
    print_any_text()
    options = parser.parse_args()
    try:
        client = Client(options.url)  # the key is no argument, since every user of the machine could see it
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
        sys.exit(f"nobody answers: start the application with scripts/serve, or say where it is ({exc})")
    except KeyboardInterrupt:
        sys.exit(130)


def dashboard(address: str) -> httpx.Client:
    """Who asks Ray's dashboard, with Ray's token: it wants one where configs/serve.env was sourced."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        with suppress(OSError, RuntimeError):  # there is none, or no home that could have it
            token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser().read_text().strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=address, headers=headers, timeout=_TIMEOUT_S, trust_env=False)


def deploy(config: Json, address: str, tell: Callable[[str], None] = lambda _: None) -> None:
    """Until every application runs as the config says; ``tell`` hears what Serve says meanwhile.

    Raises DeployRefused, httpx.TransportError.
    """
    told = ""
    names = [application.get("name", "default") for application in config["applications"]]
    with dashboard(address) as http:
        _answered(http.put(APPLICATIONS, json=config))
        while True:
            applications = _answered(http.get(APPLICATIONS)).json()["applications"]
            for name in names:
                if applications[name]["status"] in _FAILED:
                    raise DeployRefused(f"{name} cannot be deployed: {applications[name]['message']}")
            if all(applications[name]["status"] == "RUNNING" for name in names):
                return
            now = "; ".join(f"{name}: {_status(applications[name])}" for name in names)
            if now != told:
                tell(told := now)
            time.sleep(_LOOK_PERIOD_S)


def settled_models(client: Client) -> list[ModelStatus]:
    """Which models serve, once none is being changed. Raises DeployRefused, ConnectionFailed."""
    expires_s = time.monotonic() + _AVAILABLE_WITHIN_S
    while True:
        models = _models(client)
        silent = [model.name for model in models if model.state == "unavailable"] if models else ["any model"]
        if not silent:
            if all(model.state != "changing" for model in models):
                return models
            expires_s = time.monotonic() + _AVAILABLE_WITHIN_S
        elif time.monotonic() > expires_s:
            raise DeployRefused(f"whether it was changed is not known: nothing is heard of {', '.join(silent)}")
        time.sleep(_LOOK_PERIOD_S)


def check_changed(models: list[ModelStatus]) -> None:
    """Raises DeployRefused for those that go on as they were though they were to change."""
    if refused := [f"{one.name} goes on as it was: {one.refused_change}" for one in models if one.refused_change]:
        raise DeployRefused("; ".join(refused))


def _models(client: Client) -> list[ModelStatus]:
    """Every model; none while the application has too much to do to say."""
    try:
        return client.models()
    except ApiError as exc:
        if exc.is_retryable:
            return []
        raise DeployRefused(f"{client.url} answers {exc.status_code}: {exc}") from exc


def _status(application: Json) -> str:
    """With those of its deployments that are not yet as they are to be, and why."""
    waiting = [
        f"{name} {one['status']}" + (f" ({one['message']})" if one["message"] else "")
        for name, one in application.get("deployments", {}).items()
        if one["status"] != "HEALTHY"
    ]
    return " ".join([application["status"], *waiting])


def _answered(response: httpx.Response) -> httpx.Response:
    if response.status_code != 200:
        raise DeployRefused(f"{response.url} answers {response.status_code}: {response.text[-500:]}")
    return response


if __name__ == "__main__":
    main()

"""The command ``sightline deploy``, which applies a changed Serve config to the running application."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.configs import find_config
from serve_app.cli.errors import CommandFailed
from serve_app.cli.server import Url, connect

if TYPE_CHECKING:
    import httpx

    from serve_app.client import Client
    from serve_app.schemas.models import ModelStatus
    from serve_app.types import Json

APPLICATIONS = "/api/serve/applications/"  # path in the dashboard's API
_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.5
_STATUS_TIMEOUT_S = 60.0  # long, because a busy Detector answers late
_FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}


def deploy(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A Serve config in YAML, or the name of one.", show_default=False)
    ],
    address: Annotated[
        str, typer.Option(metavar="URL", envvar="RAY_DASHBOARD_ADDRESS", help="The address of Ray's dashboard.")
    ] = "http://127.0.0.1:8265",
    url: Url = None,
) -> None:
    """Apply a changed config to the running application without downtime, and report the outcome.

    A change of a Detector's user_config (model, detect, batcher) needs no restart, and no request fails. If new weights
    cannot be served, the current model stays in use. This command then prints the reason and exits with status 1. Any
    other change restarts the replicas, one at a time.
    """
    from serve_app.deployments import preflight

    with connect(url) as client:
        settings = preflight.read(find_config(config))
        preflight.check_args(settings)
        apply_config(settings, address, tell=lambda status: print(status, file=sys.stderr))
        models = settled_models(client)
    for model in models:
        print(f"{model.name}: {model.state}" + (f", {model.model} {model.version}" if model.model else ""))
    check_changed(models)


def dashboard(address: str) -> httpx.Client:
    """Return a client for Ray's dashboard.

    The client sends Ray's token, because configs/serve.env makes the token mandatory.
    """
    import httpx

    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        with suppress(OSError, RuntimeError):  # ignore a missing token file or home directory
            token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser().read_text().strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=address, headers=headers, timeout=_TIMEOUT_S, trust_env=False)


def apply_config(config: Json, address: str, tell: Callable[[str], None] = lambda _: None) -> None:
    """Deploy the config, and wait until every application is running. Pass Serve's progress to ``tell``.

    Raise CommandFailed if an application cannot be deployed, or if the dashboard does not answer.
    """
    import httpx

    try:
        with dashboard(address) as http:
            _checked(http.put(APPLICATIONS, json=config))
            _wait_until_running(http, [one.get("name", "default") for one in config["applications"]], tell)
    except httpx.TransportError as exc:
        raise CommandFailed(
            f"Ray's dashboard does not respond at {address} ({exc}): start the application with `sightline serve`, or "
            "set --address"
        ) from exc


def _wait_until_running(http: httpx.Client, names: list[str], tell: Callable[[str], None]) -> None:
    reported = ""
    while True:
        applications = _checked(http.get(APPLICATIONS)).json()["applications"]
        for name in names:
            if applications[name]["status"] in _FAILED:
                raise CommandFailed(f"{name} cannot be deployed: {applications[name]['message']}")
        if all(applications[name]["status"] == "RUNNING" for name in names):
            return
        progress = "; ".join(f"{name}: {_status(applications[name])}" for name in names)
        if progress != reported:
            tell(reported := progress)
        time.sleep(_POLL_INTERVAL_S)


def settled_models(client: Client) -> list[ModelStatus]:
    """Wait until no model is being changed, and return the status of every model.

    Raise CommandFailed if a model stays unavailable, and ConnectionFailed if the application does not answer.
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
            raise CommandFailed(
                f"the outcome is unknown: {', '.join(silent)} did not answer within {_STATUS_TIMEOUT_S:g} s; try again"
            )
        time.sleep(_POLL_INTERVAL_S)


def check_changed(models: list[ModelStatus]) -> None:
    """Raise CommandFailed if the service refused to change a model."""
    if refused := [f"{one.name} was not changed: {one.refused_change}" for one in models if one.refused_change]:
        raise CommandFailed("; ".join(refused))


def _models(client: Client) -> list[ModelStatus]:
    """Return the status of every model, or an empty list if the application is too busy to answer."""
    from serve_app.client import ApiError

    try:
        return client.models()
    except ApiError as exc:
        if exc.is_retryable:
            return []
        if exc.code == "unauthorized":
            raise  # ``connect`` says how to set the key
        raise CommandFailed(f"{client.url} returned {exc.status_code}: {exc}") from exc


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
        raise CommandFailed(f"{response.url} returned {response.status_code}: {response.text[-500:]}")
    return response

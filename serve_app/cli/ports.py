"""The ports that a service needs, and the check whether a running Sightline server uses them already."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.cli.configs import ray_flags
from serve_app.cli.errors import CommandFailed
from serve_app.cli.findings import Finding, attempt, ok, warning
from serve_app.errors import ConfigError
from serve_app.network.ports import check_port

if TYPE_CHECKING:
    from serve_app.types import Json

_DASHBOARD_PORT = 8265
_GCS_PORT = 6379  # in configs/cluster.yaml
_ANY_HOST = {"", "0.0.0.0", "::"}
_ANSWER_TIMEOUT_S = 2.0


def check_api_port(config: Path, port: int | None) -> None:
    """Raise CommandFailed if another program listens on the API's port.

    ``port`` overrides the port of the config. Nothing else about the config is checked. The driver also checks the
    port, but the driver first imports Ray, which takes seconds.
    """
    import yaml

    try:
        host, configured = _api_address(yaml.safe_load(config.read_bytes()))
    except (OSError, yaml.YAMLError, AttributeError):
        return  # the driver says what is wrong with the config
    port = port or configured
    if _is_taken(host, port):
        program = "a running Sightline server" if is_sightline(host, port) else "another program"
        raise CommandFailed(
            f"http_options.port: port {port} of {host} is in use by {program}: stop it, or use another port with --port"
        )


def of_ports(config: Json) -> Iterator[Finding]:
    """Yield the findings of ``sightline doctor`` about the ports of the API, of HAProxy and of Ray.

    A port that belongs to a running Sightline server is no problem.
    """
    from serve_app.deployments import preflight

    host, port = _api_address(config)
    api = attempt(f"port {port}", "free, for the API", partial(check_port, host, port, "http_options.port"))
    is_ours = api.mark != "ok" and is_sightline(host, port)
    if is_ours:
        api = ok(api.check, "in use by a running Sightline server; another one needs --port")
    yield api
    flags = ray_flags() | os.environ
    if flags.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        for variable, default in preflight.HAPROXY_PORTS.items():
            haproxy_port = flags.get(variable, default)
            check = partial(check_port, "127.0.0.1", haproxy_port, variable)
            finding = attempt(f"port {haproxy_port}", "free, for HAProxy", check)
            if is_ours and finding.mark != "ok" and _is_haproxy(int(haproxy_port)):
                finding = ok(finding.check, f"in use by HAProxy of that server; another one needs {variable}")
            yield finding
    dashboard = attempt("", "", partial(check_port, "127.0.0.1", _DASHBOARD_PORT, ""))
    if dashboard.mark == "ok":
        yield ok(f"port {_DASHBOARD_PORT}", "free, for Ray's dashboard")
    elif is_ours:
        yield ok(f"port {_DASHBOARD_PORT}", "in use; Ray's dashboard takes the next free port")
    else:
        yield warning(f"port {_DASHBOARD_PORT}", "in use", "Ray's dashboard takes the next free port")
    if config.get("proxy_location") == "EveryNode":
        check = partial(check_port, "0.0.0.0", _GCS_PORT, "ray start --port")
        yield attempt(f"port {_GCS_PORT}", "free, for the head of a cluster", check)


def is_sightline(host: str, port: int) -> bool:
    """Return whether the server on this port describes its API as that of Sightline."""
    try:
        return bool(json.loads(_answer(host, port, "/openapi.json"))["info"]["title"] == "Sightline")
    except (ValueError, KeyError, TypeError):
        return False


def _is_haproxy(port: int) -> bool:
    return "haproxy" in _answer("127.0.0.1", port, "/metrics") + _answer("127.0.0.1", port, "/stats")


def _answer(host: str, port: int, path: str) -> str:
    """Return the body of a server's response, or an empty string if the server does not respond."""
    import httpx

    host = "127.0.0.1" if host in _ANY_HOST else f"[{host}]" if ":" in host else host
    try:
        return httpx.get(f"http://{host}:{port}{path}", timeout=_ANSWER_TIMEOUT_S, trust_env=False).text
    except httpx.HTTPError:
        return ""


def _api_address(config: Json) -> tuple[str, int]:
    http = config.get("http_options") or {}
    return http.get("host", "0.0.0.0"), http.get("port", 8000)


def _is_taken(host: str, port: int) -> bool:
    try:
        check_port(host, port, "")
    except ConfigError as exc:
        return isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.EADDRINUSE
    except TypeError:
        pass  # the driver says that this is no port
    return False

"""Fixtures that run HAProxy in front of a server that acts as a replica."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.serve._private import haproxy
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from scripts.launch import free_port
from tests.support.haproxy import WRAPPER, Replica, Server


@pytest.fixture(scope="module")
def replica() -> Iterator[int]:
    """Run a server that acts as a replica, and yield its port."""
    with Server(("127.0.0.1", 0), Replica) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def api(tmp_path: Path, replica: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> HAProxyApi:
    """Return the object with which Ray starts, reloads and stops HAProxy."""
    monkeypatch.setattr(haproxy, "RAY_SERVE_HAPROXY_BINARY_PATH", str(WRAPPER))
    config = HAProxyConfig(
        socket_path=str(tmp_path / "admin.sock"),
        server_state_base=str(tmp_path),
        server_state_file=str(tmp_path / "state"),
        metrics_socket_path=str(tmp_path / "metrics.sock"),
        metrics_port=free_port(),
        stats_port=free_port(),
        http_options=HTTPOptions(host=getattr(request, "param", "127.0.0.1"), port=free_port()),
    )
    backend = BackendConfig("http-app", "/", servers=[ServerConfig("replica", "127.0.0.1", replica)], app_name="app")
    return HAProxyApi(config, {backend.name: backend}, str(tmp_path / "haproxy.cfg"))

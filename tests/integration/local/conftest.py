"""The service that the tests of this folder share: scripts/serve with the local config."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import launch
from scripts.launch import ROOT, Server


@pytest.fixture(scope="package")
def servers() -> Iterator[list[Server]]:
    """Collect the servers that the tests start, and stop them at the end."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def server(servers: list[Server], tmp_path: Path) -> Server:
    """Return the running server. Start a server for the first test, and after a test that has killed the server."""
    if not servers or servers[-1].process.poll() is not None:
        servers.append(launch.start(ROOT / "configs/local.yaml", tmp_path / "log"))
        servers[-1].wait_until_ready()
    return servers[-1]

"""Fixtures with real servers and sockets, and a resolver that each test controls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.network import download as downloading
from tests.support.traps import Names
from tests.support.web_server import WebServer


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Replace the resolver with one that the test controls."""
    return Names(monkeypatch)


@pytest.fixture(autouse=True)
def _no_real_resolver(names: Names) -> None:
    """Keep the tests of this folder from using the real resolver by mistake."""


@pytest.fixture
async def server() -> AsyncIterator[WebServer]:
    """Start a web server at the allowed address."""
    server = WebServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_RETRY_DELAYS_S", (0, 0, 0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path to which the tests download."""
    return tmp_path / "a.pt.part"

"""Real servers, real sockets, and a resolver that says what a test tells it to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.traps import Names
from tests.support.web_server import WebServer


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Replace the resolver."""
    return Names(monkeypatch)


@pytest.fixture(autouse=True)
def _no_real_resolver(names: Names) -> None:
    """Keep every test of this folder from asking the network's resolver by mistake."""


@pytest.fixture
async def server() -> AsyncIterator[WebServer]:
    """Start a web server at the address that is allowed."""
    server = WebServer()
    await server.start()
    yield server
    await server.stop()

"""Clients of the HTTP interface with and without API keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from serve_app.api.access import reload, revocation
from tests.support.api import Keys, build, client_of
from tests.support.fakes import FakeBackend, FakeMetrics


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.yaml")


@pytest.fixture(autouse=True)
def check_key_file_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every request check whether the API-key file has changed."""
    monkeypatch.setattr(reload, "_POLL_INTERVAL_S", 0.0)
    monkeypatch.setattr(revocation, "_POLL_INTERVAL_S", 0.01)


@pytest.fixture
async def keyed(backend: FakeBackend, metrics: FakeMetrics, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of an API with keys."""
    async with client_of(build(backend, keys, metrics), "sightline.example") as client:
        yield client


@pytest.fixture
async def unkeyed(backend: FakeBackend) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of an API without keys."""
    async with client_of(build(backend)) as client:
        yield client

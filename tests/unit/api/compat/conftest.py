"""Servers with two models, with and without API keys, which the clients of other servers use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from serve_app.api.access import reload
from tests.support.api import Keys, build, client_of
from tests.support.fakes import FakeBackend

MODELS: dict[str, Any] = {"models": {"plates": {"weights": "plates.onnx"}}}
# Clients in this network need no key. The clients of these tests are in it only if they say so.
COMPAT = {name: {"allow_from": "10.1.0.0/16"} for name in ("deepstack", "open_inference")}


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeBackend, Keys, FastAPI, FastAPI]:
    """Build one server for each kind, because building one takes longer than a test."""
    backend, keys = FakeBackend(), Keys(tmp_path_factory.mktemp("keys") / "keys.yaml")
    return backend, keys, build(backend, **MODELS), build(backend, keys, compat=COMPAT, **MODELS)


@pytest.fixture
def backend(servers: tuple[FakeBackend, Keys, FastAPI, FastAPI]) -> FakeBackend:
    """Return the backend of both servers, as if it were new."""
    vars(servers[0]).update(vars(FakeBackend()))
    return servers[0]


@pytest.fixture
def keys(servers: tuple[FakeBackend, Keys, FastAPI, FastAPI], monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Return the file of API keys, which each request reads again."""
    monkeypatch.setattr(reload, "_POLL_INTERVAL_S", 0.0)
    servers[1].clear()
    return servers[1]


@pytest.fixture
async def client(
    servers: tuple[FakeBackend, Keys, FastAPI, FastAPI], backend: FakeBackend
) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a server without API keys. Its models are ``default``, with the weights codes, and plates."""
    async with client_of(servers[2]) as found:
        yield found


@pytest.fixture
async def keyed(
    servers: tuple[FakeBackend, Keys, FastAPI, FastAPI], backend: FakeBackend, keys: Keys
) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the same server with API keys."""
    async with client_of(servers[3], "sightline.example") as found:
        yield found

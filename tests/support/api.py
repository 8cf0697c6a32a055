"""Helpers for tests of the HTTP API, which run the API with a fake backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from fastapi import FastAPI
from websockets.sync.client import connect

from serve_app.api.access.keys import make_key
from serve_app.api.app import build_api
from serve_app.config import parse_args
from tests.support.fake_drift import FakeDrift
from tests.support.fake_jobs import FakeJobs
from tests.support.fakes import FakeBackend, FakeMetrics, FakeStreams
from tests.support.stream_server import StreamServer, serve_streams

STREAM = {"id": "lot", "source": {"uri": "rtsp://camera/1"}}


class Keys:
    """An API-key file to which a test can add keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: list[dict[str, Any]] = []
        self.save()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a server with these keys, which keeps the secret of its sessions beside them."""
        return {"access": {"keys_file": str(self.path)}, "streams": {"state_dir": str(self.path.parent / "state")}}

    def add(self, name: str, *scopes: str, **fields: Any) -> dict[str, str]:
        """Add a new key to the file, and return the request header with the key."""
        key, entry = make_key(name, scopes)
        self._entries.append(entry | fields)
        self.save()
        return {"Authorization": f"Bearer {key}"}

    def clear(self) -> None:
        self._entries = []
        self.save()

    def save(self) -> None:
        self.path.write_text(yaml.safe_dump(self._entries))


def build(
    backend: FakeBackend | None = None,
    keys: Keys | None = None,
    metrics: FakeMetrics | None = None,
    streams: FakeStreams | None = None,
    jobs: FakeJobs | None = None,
    drift: FakeDrift | None = None,
    **args: Any,
) -> FastAPI:
    settings = keys.settings if keys else {}
    parsed = parse_args(settings | args | {"access": args.get("access", {}) | settings.get("access", {})})
    served = backend or FakeBackend(), streams or FakeStreams(), jobs or FakeJobs(), drift or FakeDrift()
    return build_api(*served, metrics or FakeMetrics(), parsed)


class SharedApi:
    """One API for many tests, because building it takes longer than a test, and the fakes behind it."""

    def __init__(self, keys: Keys | None = None, **args: Any) -> None:
        self.backend, self.metrics, self.streams, self.jobs = FakeBackend(), FakeMetrics(), FakeStreams(), FakeJobs()
        self.api = build(self.backend, keys, self.metrics, self.streams, self.jobs, **args)

    def reset(self) -> SharedApi:
        """Make each fake as it was at first."""
        for fake in (self.backend, self.metrics, self.streams, self.jobs):
            vars(fake).update(vars(type(fake)()))
        return self


def client_of(api: FastAPI, host: str = "localhost") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")


def is_error(response: httpx.Response, status_code: int, code: str, limit: str = "") -> bool:
    """Return whether the response is exactly this error.

    If ``limit`` is given, the body's ``limit`` must have this value, and ``detail`` must begin with this value.
    """
    body = response.json()
    expected = {"code": code, "detail": body.get("detail"), "request_id": body.get("request_id")}
    if limit:
        expected["limit"] = limit
    is_named = not limit or body.get("detail", "").startswith(f"{limit}: ")
    return response.status_code == status_code and body == expected and None not in expected.values() and is_named


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not look():
            await asyncio.sleep(0.01)


async def statuses(client: httpx.AsyncClient, header: dict[str, str], count: int) -> list[int]:
    return [(await client.post("/detect", content=b"1", headers=header)).status_code for _ in range(count)]


@contextmanager
def served_with(keys: Keys, **fields: Any) -> Iterator[StreamServer]:
    """Run a real server with one stream, because only a real server notices disconnects.

    The client of the server sends a valid key.
    """
    header = keys.add("dock", "streams", **fields)
    with serve_streams(keys.settings) as served:
        served.http.headers.update(header)
        served.http.post("/streams", json=STREAM).raise_for_status()
        yield served


def connect_to(served: StreamServer, **options: Any) -> Any:
    header = {"Authorization": served.http.headers.get("Authorization", "")}
    url = f"ws://127.0.0.1:{served.port}/streams/lot/events"
    return connect(url, proxy=None, **{"additional_headers": header} | options)


async def unread() -> AsyncIterator[bytes]:
    raise AssertionError("the API must not read the body")
    yield b""

"""A real HTTP server with a fake backend, fake streams and fake jobs."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from scripts.launch import free_port
from serve_app.api.app import build_api
from serve_app.config import parse_args
from tests.support.fake_drift import FakeDrift
from tests.support.fake_jobs import FakeJobs
from tests.support.fakes import FakeBackend, FakeMetrics, FakeStreams


class _Server(uvicorn.Server):
    """A uvicorn server that exposes its event loop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


@dataclass
class StreamServer:
    """A running server, a client for the server, and the fakes that the server uses."""

    backend: FakeBackend
    streams: FakeStreams
    jobs: FakeJobs
    drift: FakeDrift
    http: httpx.Client
    port: int
    _server: _Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def happen(self, count: int = 1) -> None:
        """Add ``count`` events to the stream ``lot``."""
        for _ in range(count):
            self.do(lambda: self.streams.happen("lot"))

    def do(self, action: Callable[[], object]) -> None:
        """Schedule an action on the server's event loop."""
        self._server.loop.call_soon_threadsafe(action)


@contextmanager
def serve_streams(args: dict[str, Any] | None = None) -> Iterator[StreamServer]:
    """Run a server with these settings, and stop it at the end."""
    backend, streams, jobs, port = FakeBackend(), FakeStreams(), FakeJobs(), free_port()
    drift = FakeDrift("all", "stream/lot")
    api = build_api(backend, streams, jobs, drift, FakeMetrics(), parse_args(args or {}))
    server = _Server(uvicorn.Config(api, port=port, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as http:
            while not server.started:
                assert thread.is_alive()
            yield StreamServer(backend, streams, jobs, drift, http, port, server)
    finally:
        server.should_exit = True
        thread.join(20)

"""Helpers that let Ray Serve's own code run configs/haproxy.py with the real HAProxy and a fake replica."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import psutil
from ray.serve._private.haproxy import HAProxyApi

from tests.support.paths import ROOT

WRAPPER = ROOT / "configs/haproxy.py"
SLOW_S = 1.2


class Replica(BaseHTTPRequestHandler):
    """A fake replica that returns status 200, except for some paths.

    /slow takes 1.2 s. /missing returns a 404 like Ray's, and /unknown a 404 like Sightline's. For /dying the replica
    closes the connection without a response. For /watched the replica waits until the client disconnects. A response
    repeats the addresses in the request's X-Forwarded-For, and the request's Sec-WebSocket-Extensions.
    """

    cut = threading.Event()  # set when the client of /watched has disconnected

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/slow":
            time.sleep(SLOW_S)
        if self.path in {"/dying", "/watched"}:
            self.close_connection = True
            if self.path == "/watched":
                with suppress(OSError):
                    self.rfile.read(1)
                self.cut.set()
            return
        self.send_response(404 if self.path in {"/missing", "/unknown"} else 200)
        self.send_header("Content-Type", "application/json" if self.path == "/unknown" else "text/plain; charset=utf-8")
        self.send_header("X-Seen-Addresses", ", ".join(self.headers.get_all("x-forwarded-for", [])))
        self.send_header("X-Seen-Extensions", self.headers.get("sec-websocket-extensions", "none"))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        """Do not print a log line."""


class Server(ThreadingHTTPServer):
    """A server whose queue holds up to 64 connections, because the default of five is too small for the tests."""

    request_queue_size = 64


def serving(api: HAProxyApi, use: Callable[[psutil.Process], Awaitable[None]]) -> None:
    """Start HAProxy as Ray does, call ``use`` with the process of configs/haproxy.py, and stop HAProxy."""

    async def run() -> None:
        await api.start()
        try:
            assert api._proc is not None
            await use(psutil.Process(api._proc.pid))
        finally:
            await api.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


async def get(api: HAProxyApi, path: str = "/", host: str = "127.0.0.1") -> int:
    """Send a request on a new connection, and return the status code."""
    reader, writer = await asyncio.open_connection(host, api.cfg.http_options.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    try:
        return int((await reader.read()).split()[1])
    finally:
        writer.close()


async def answer(api: HAProxyApi, path: str) -> httpx.Response:
    """Send a request with an X-Request-ID, and return the response."""
    url = f"http://127.0.0.1:{api.cfg.http_options.port}{path}"
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(url, headers={"X-Request-ID": 'a "b"'})


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not look():
            await asyncio.sleep(0.02)

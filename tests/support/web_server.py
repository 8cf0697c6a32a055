"""A web server at an allowed address, for tests that fetch URLs."""

from __future__ import annotations

import asyncio
import ssl
from ipaddress import ip_network

import pytest

from serve_app.api.url_fetcher import Fetcher
from serve_app.errors import ServeAppError
from serve_app.network.address_guard import AddressGuard

MAX_BYTES = 100_000
OPEN = "127.0.0.2"  # the only allowed address; all of 127.0.0.0/8 is this machine
ALLOWED = AddressGuard((ip_network(OPEN),))


class WebServer:
    """A server that records all requests. The test sets the response for each path."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.connections = 0
        self.names: list[str | None] = []  # the server names (SNI) that TLS clients requested
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, OPEN, 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://{OPEN}:{self.port}"

    async def stop(self) -> None:
        self.gate.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head.decode())
                await self.gate.wait()
                path = head.split()[1].decode().partition("?")[0]
                writer.write(self.answers.get(path, ok(b"picture")))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def ok(body: bytes, headers: str = "") -> bytes:
    """Return a response with status 200 and this body."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def to(location: str, status: int = 302) -> bytes:
    """Return a response that redirects to this location."""
    return f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


async def refusal(url: str, guard: AddressGuard = ALLOWED) -> ServeAppError:
    """Fetch a URL, check that the fetch is refused, and return the error."""
    with pytest.raises(ServeAppError) as caught:
        await Fetcher(guard, MAX_BYTES).fetch(url)
    return caught.value

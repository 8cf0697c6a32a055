"""A fake web server that receives webhooks."""

from __future__ import annotations

import asyncio
import json
import ssl


class Receiver:
    """A server that records every request. It returns the next item of ``answers``, or status 200 if none is left."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.requests.append((first, headers, body))
                await self.gate.wait()
                writer.write(self.answers.pop(0) if self.answers else answer(200))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def events(self) -> list[list[int]]:
        """Return the event ids in each request."""
        return [[each["event_id"] for each in json.loads(body)["events"]] for _, _, body in self.requests]


def answer(status: int, headers: str = "", body: bytes = b"ok") -> bytes:
    """Return the bytes of an HTTP response."""
    return f"HTTP/1.1 {status} Reason\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body

"""A patch to uvicorn for clients that close their sending side after a request, as ``nc -N`` does (RFC 9112, 9.6)."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# A client that disconnects looks the same as one that closes only its sending side. The time tells them apart: the
# second kind closes right after its request, and the first kind gives up later, after it has waited for the answer.
_MAX_DELAY_S = 0.1


def answer_half_closed() -> None:
    """Make uvicorn answer such clients in this process. By default it closes the connection and cancels the request."""
    for protocol in (HttpToolsProtocol, H11Protocol):
        if not hasattr(protocol, "received_at_s"):  # otherwise it was already changed
            ours = {"received_at_s": 0.0, "data_received": _recording_time(protocol.data_received)}
            for name, value in (ours | {"eof_received": _eof_received}).items():
                setattr(protocol, name, value)


def _recording_time(data_received: Any) -> Any:
    def record_time(self: Any, data: bytes) -> None:
        self.received_at_s = self.loop.time()
        data_received(self, data)

    return record_time


def _eof_received(self: Any) -> bool:
    """Return True to keep the connection open for the answer. See ``asyncio.Protocol.eof_received``."""
    cycle = self.cycle
    if cycle is None or cycle.more_body or cycle.response_complete:
        return False
    if self.loop.time() - self.received_at_s > _MAX_DELAY_S:
        return False
    cycle.keep_alive = False
    return True

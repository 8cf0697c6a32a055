"""A patch to uvicorn for clients that close their sending side after a request, as ``nc -N`` does (RFC 9112, 9.6)."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# To a server, a client that disconnects looks the same as a client that closes only its sending side. We can
# distinguish the two clients only by the time of closing. A client that still wants the answer closes its sending side
# right after the request. A client that gives up disconnects later, because it first waits for the answer.
_MAX_DELAY_S = 0.1


def answer_half_closed() -> None:
    """Make uvicorn in this process answer a client that has closed its sending side.

    By default uvicorn would close the connection and cancel the request.
    """
    for protocol in (HttpToolsProtocol, H11Protocol):
        if not hasattr(protocol, "received_at_s"):  # the protocol is not patched yet
            ours = {"received_at_s": 0.0, "data_received": _recording_time(protocol.data_received)}
            for name, value in (ours | {"eof_received": _eof_received}).items():
                setattr(protocol, name, value)


def _recording_time(data_received: Any) -> Any:
    def record_time(self: Any, data: bytes) -> None:
        self.received_at_s = self.loop.time()
        data_received(self, data)

    return record_time


def _eof_received(self: Any) -> bool:
    """Return whether to keep the connection open for the answer. See ``asyncio.Protocol.eof_received``."""
    cycle = self.cycle
    if cycle is None or cycle.more_body or cycle.response_complete:
        return False
    if self.loop.time() - self.received_at_s > _MAX_DELAY_S:
        return False
    cycle.keep_alive = False
    return True

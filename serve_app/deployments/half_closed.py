"""Answer clients that close their side of the connection behind their request, as ``nc -N`` does: RFC 9112, 9.6."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# A client that has gone looks the same. One that only closed its side has nothing to wait for before it does so; one
# that goes does so because it waited too long, or because a person did.
_AT_ONCE_S = 0.1


def answer_half_closed() -> None:
    """Have uvicorn answer them in this process. It closes the connection otherwise, and the request ends."""
    for protocol in (HttpToolsProtocol, H11Protocol):
        if not hasattr(protocol, "received_at_s"):  # else it was done before
            ours = {"received_at_s": 0.0, "data_received": _noting_time(protocol.data_received)}
            for name, value in (ours | {"eof_received": _eof_received}).items():
                setattr(protocol, name, value)


def _noting_time(data_received: Any) -> Any:
    def noting(self: Any, data: bytes) -> None:
        self.received_at_s = self.loop.time()
        data_received(self, data)

    return noting


def _eof_received(self: Any) -> bool:
    """Return whether the connection stays open for the answer: see ``asyncio.Protocol``."""
    cycle = self.cycle
    if cycle is None or cycle.more_body or cycle.response_complete:
        return False
    if self.loop.time() - self.received_at_s > _AT_ONCE_S:
        return False
    cycle.keep_alive = False
    return True

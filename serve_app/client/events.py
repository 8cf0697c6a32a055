"""What happens in a stream, and how a client follows it over broken connections."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from serve_app.client.answers import check, validated
from serve_app.client.errors import ApiError, SightlineError
from serve_app.client.requests import ApiRequest, stream_path
from serve_app.client.results import FrameResult
from serve_app.client.sse import Message, SseParser
from serve_app.schemas.streams import ClipNotice, Gap, LineCrossing, StateChange, ZoneChange
from serve_app.types import Json

_LEAST_PAUSE_S = 0.1  # before a connection is made again; doubled with each one that brings nothing
_MOST_PAUSE_S = 5.0
_LEAST_TIMEOUT_S = 30.0  # a server that has nothing to say sends a keep-alive every 10 s

Payload = FrameResult | StateChange | Gap | ZoneChange | LineCrossing | ClipNotice
_PAYLOADS: dict[str, type[Payload]] = {
    "result": FrameResult,
    "state": StateChange,
    "gap": Gap,
    "zone": ZoneChange,
    "line": LineCrossing,
    "recording": ClipNotice,
}


@dataclass(frozen=True)
class StreamEvent:
    """Something that happened in a stream."""

    event_id: int  # counts up within a stream
    type: str  # "result", "state", "gap", "zone", "line" or "recording"
    stream_id: str
    at_s: float  # wall clock, seconds since the epoch
    data: Payload | Json = field(repr=False)  # JSON where this version of the client does not know the type
    json: str = field(repr=False)  # as the server sent it


@dataclass(frozen=True)
class MissedEvents:
    """Events of any type that the server no longer keeps: the client was away, or reads too slowly."""

    missed: int
    json: str = field(repr=False)  # as the server sent it
    type: Literal["missed"] = "missed"


class EventFeed:
    """Where a client is in a stream's events, over as many connections as that takes."""

    def __init__(self, stream_id: str, types: Iterable[str] | None, after: int | None) -> None:
        self._path = stream_path(stream_id, "events")
        self._types = {} if types is None else {"types": types if isinstance(types, str) else ",".join(types)}
        self._after = after
        self._parser = SseParser()
        self._has_connected = False
        self._pause_s = _LEAST_PAUSE_S

    def request(self, timeout_s: float) -> ApiRequest[None]:
        """Return what to ask the next connection for: whatever came after the last event."""
        self._parser = SseParser()  # half an event of the last connection comes again as a whole
        after = {} if self._after is None else {"after": str(self._after)}
        timeout = httpx.Timeout(timeout_s, read=max(timeout_s, _LEAST_TIMEOUT_S))
        return ApiRequest("GET", self._path, check, {"params": self._types | after, "timeout": timeout})

    def read(self, data: bytes) -> Iterator[StreamEvent | MissedEvents]:
        """Return the events that these bytes of the answer complete."""
        self._has_connected = True
        for message in self._parser.feed(data):
            if message.id is not None:
                self._after = int(message.id)
            if message.data:
                self._pause_s = _LEAST_PAUSE_S
                yield _to_event(message)

    def pause_s(self, error: SightlineError | None) -> float:
        """Return how long to wait before the next connection.

        Raises the error where another connection would not help, or where there has been none yet.
        """
        if error is not None and not (error.is_retryable and (self._has_connected or isinstance(error, ApiError))):
            raise error
        asked_s = error.retry_after_s if isinstance(error, ApiError) else None
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _MOST_PAUSE_S)
        return max(pause_s * random.uniform(0.5, 1), asked_s or 0)


def _to_event(message: Message) -> StreamEvent | MissedEvents:
    body: dict[str, Any] = json.loads(message.data)
    if message.event == "missed":
        return MissedEvents(body["missed"], message.data)
    kind = _PAYLOADS.get(message.event)
    data: Payload | Json = body if kind is None else validated(kind, message.data)
    return StreamEvent(body["event_id"], message.event, body["stream_id"], body["at_s"], data, message.data)

"""A stream's events, and ``EventFeed``, with which a client can continue to read events after a failed connection."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import httpx
from pydantic import BaseModel, ValidationError

from serve_app.client.answers import check_type, unexpected
from serve_app.client.errors import ApiError, SightlineError
from serve_app.client.requests import ApiRequest, stream_path
from serve_app.client.results import FrameResult
from serve_app.client.sse import Message, SseParser
from serve_app.schemas.streams import ClipNotice, Gap, LineCrossing, StateChange, ZoneChange
from serve_app.types import Json

_MIN_PAUSE_S = 0.1  # the first wait before reconnecting; it doubles after each connection without an event
_MAX_PAUSE_S = 5.0
_MIN_READ_TIMEOUT_S = 30.0  # a server without new events sends a keep-alive every 10 s

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
    """One event of a stream, such as a result or a change of state."""

    event_id: int  # increases within a stream
    type: str  # "result", "state", "gap", "zone", "line" or "recording"
    stream_id: str
    at_s: float  # wall clock, in seconds since the epoch
    # a dictionary if this version of the client does not know the event's type or one of its values
    data: Payload | Json = field(repr=False)
    json: str = field(repr=False)  # as the server sent it


@dataclass(frozen=True)
class MissedEvents:
    """Events that the client missed, because it was disconnected or read them too slowly."""

    missed: int
    json: str = field(repr=False)  # as the server sent it
    type: Literal["missed"] = "missed"


class EventFeed:
    """A client's position in a stream's events. The feed keeps this position when the client reconnects."""

    def __init__(self, stream_id: str, types: Iterable[str] | None, after: int | None) -> None:
        self._path = stream_path(stream_id, "events")
        self._types = {} if types is None else {"types": types if isinstance(types, str) else ",".join(types)}
        self._after = after
        self._parser = SseParser()
        self._has_connected = False
        self._pause_s = _MIN_PAUSE_S

    def request(self, timeout_s: float) -> ApiRequest[None]:
        """Return the request for the next connection. The request asks for the events after the last received event."""
        self._parser = SseParser()  # drops an incomplete event, which the server sends again
        after = {} if self._after is None else {"after": str(self._after)}
        timeout = httpx.Timeout(timeout_s, read=max(timeout_s, _MIN_READ_TIMEOUT_S))
        return ApiRequest("GET", self._path, _check, {"params": self._types | after, "timeout": timeout})

    def read(self, data: bytes) -> Iterator[StreamEvent | MissedEvents]:
        """Yield the events that end in these bytes. Raise ApiError if the bytes are not valid events."""
        self._has_connected = True
        for message in self._messages(data):
            if message.id is not None:
                self._after = _to_id(message.id)
            if message.data:
                event = _to_event(message)
                self._pause_s = _MIN_PAUSE_S
                yield event

    def _messages(self, data: bytes) -> list[Message]:
        try:
            return self._parser.feed(data)
        except UnicodeDecodeError as exc:
            raise unexpected("the response has an event that is not UTF-8") from exc

    def pause_s(self, error: SightlineError | None) -> float:
        """Return how long to wait before the next connection.

        Raise ``error`` if reconnecting would not help, or if the first connection failed.
        """
        if error is not None and not (error.is_retryable and (self._has_connected or isinstance(error, ApiError))):
            raise error
        asked_s = error.retry_after_s if isinstance(error, ApiError) else None
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _MAX_PAUSE_S)
        return max(pause_s * random.uniform(0.5, 1), asked_s or 0)


class _Envelope(BaseModel):
    """The fields that events of every type have."""

    event_id: int
    stream_id: str
    at_s: float


class _Missed(BaseModel):
    missed: int


def _check(response: httpx.Response) -> None:
    check_type(response, "text/event-stream")


def _to_id(text: str) -> int:
    try:
        return int(text)
    except ValueError as exc:
        raise unexpected("the response has an event whose id is not a number") from exc


def _to_event(message: Message) -> StreamEvent | MissedEvents:
    try:
        if message.event == "missed":
            return MissedEvents(_Missed.model_validate_json(message.data).missed, message.data)
        event = _Envelope.model_validate_json(message.data)
        data = _payload(message)
    except ValueError as exc:  # pydantic's ValidationError is a ValueError
        raise unexpected("the response has an event that this version of the client cannot read") from exc
    return StreamEvent(event.event_id, message.event, event.stream_id, event.at_s, data, message.data)


def _payload(message: Message) -> Payload | Json:
    """Return an event's data.

    If a newer server sends a type or value that this version does not know, return a dictionary.
    """
    kind = _PAYLOADS.get(message.event)
    if kind is not None:
        try:
            return kind.model_validate_json(message.data)
        except ValidationError:
            pass
    body: Json = json.loads(message.data)
    return body

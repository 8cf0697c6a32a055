"""The events of streams and jobs, and ``EventFeed``, which continues to read events after a failed connection."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from serve_app.client.answers import check_type, unexpected
from serve_app.client.errors import ApiError, SightlineError
from serve_app.client.requests import ApiRequest
from serve_app.client.results import FrameResult
from serve_app.client.sse import Message, SseParser
from serve_app.schemas.jobs import JobProgress, JobStateChange
from serve_app.schemas.recording import ClipNotice
from serve_app.schemas.scene import SceneHealthChange
from serve_app.schemas.streams import Gap, LabelChange, LineCrossing, StateChange, ZoneChange
from serve_app.types import Json

_MIN_PAUSE_S = 0.1  # the first wait before reconnecting; it doubles after each connection without an event
_MAX_PAUSE_S = 5.0
_MIN_READ_TIMEOUT_S = 30.0  # a server without new events sends a keep-alive every 10 s

E = TypeVar("E")
P = TypeVar("P", bound=BaseModel)

JobPayload = JobStateChange | JobProgress
Payload = FrameResult | StateChange | Gap | ZoneChange | LineCrossing | ClipNotice | SceneHealthChange | LabelChange
_PAYLOADS: dict[str, type[Payload]] = {
    "result": FrameResult,
    "state": StateChange,
    "gap": Gap,
    "zone": ZoneChange,
    "line": LineCrossing,
    "recording": ClipNotice,
    "scene_health": SceneHealthChange,
    "label": LabelChange,
}
_JOB_PAYLOADS: dict[str, type[JobPayload]] = {"state": JobStateChange, "progress": JobProgress}


@dataclass(frozen=True)
class StreamEvent:
    """One event of a stream, such as a result or a change of state."""

    event_id: int  # increases within a stream
    type: str  # "result", "state", "gap", "zone", "line", "recording", "scene_health" or "label"
    stream_id: str
    at_s: float  # wall clock, in seconds since the epoch
    # a dictionary if this version of the client does not know the event's type or one of its values
    data: Payload | Json = field(repr=False)
    json: str = field(repr=False)  # as the server sent it


@dataclass(frozen=True)
class JobEvent:
    """One event of a job: a change of state, or its progress."""

    event_id: int  # increases within a job
    type: str  # "state" or "progress"
    job_id: str
    at_s: float  # wall clock, in seconds since the epoch
    # a dictionary if this version of the client does not know the event's type or one of its values
    data: JobPayload | Json = field(repr=False)
    json: str = field(repr=False)  # as the server sent it


@dataclass(frozen=True)
class MissedEvents:
    """Events that the client missed, because it was disconnected or read them too slowly."""

    missed: int
    json: str = field(repr=False)  # as the server sent it
    type: Literal["missed"] = "missed"


class EventFeed(Generic[E]):
    """A client's position in the events of a stream or job. The feed keeps this position when the client reconnects."""

    def __init__(
        self, path: str, to_event: Callable[[Message], E], types: Iterable[str] | None, after: int | None
    ) -> None:
        """Begin after the event ``after``. ``path`` is the path of the events, and ``to_event`` parses one event."""
        self._path = path
        self._to_event = to_event
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

    def read(self, data: bytes) -> Iterator[E | MissedEvents]:
        """Yield the events that end in these bytes. Raise ApiError if the bytes are not valid events."""
        self._has_connected = True
        for message in self._messages(data):
            if message.id is not None:
                self._after = _to_id(message.id)
            if message.data:
                event = _parsed(message, self._to_event)
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
    at_s: float


class _StreamEnvelope(_Envelope):
    stream_id: str


class _JobEnvelope(_Envelope):
    job_id: str


class _Missed(BaseModel):
    missed: int


def _check(response: httpx.Response) -> None:
    check_type(response, "text/event-stream")


def _to_id(text: str) -> int:
    try:
        return int(text)
    except ValueError as exc:
        raise unexpected("the response has an event whose id is not a number") from exc


def _parsed(message: Message, to_event: Callable[[Message], E]) -> E | MissedEvents:
    try:
        if message.event == "missed":
            return MissedEvents(_Missed.model_validate_json(message.data).missed, message.data)
        return to_event(message)
    except ValueError as exc:  # pydantic's ValidationError is a ValueError
        raise unexpected("the response has an event that this version of the client cannot read") from exc


def stream_event(message: Message) -> StreamEvent:
    """Parse one event of a stream. Raise ValueError if it is not valid."""
    event = _StreamEnvelope.model_validate_json(message.data)
    data = _payload(message, _PAYLOADS)
    return StreamEvent(event.event_id, message.event, event.stream_id, event.at_s, data, message.data)


def job_event(message: Message) -> JobEvent:
    """Parse one event of a job. Raise ValueError if it is not valid."""
    event = _JobEnvelope.model_validate_json(message.data)
    data = _payload(message, _JOB_PAYLOADS)
    return JobEvent(event.event_id, message.event, event.job_id, event.at_s, data, message.data)


def _payload(message: Message, kinds: dict[str, type[P]]) -> P | Json:
    """Return an event's data.

    If a newer server sends a type or value that this version does not know, return a dictionary.
    """
    kind = kinds.get(message.event)
    if kind is not None:
        try:
            return kind.model_validate_json(message.data)
        except ValidationError:
            pass
    body: Json = json.loads(message.data)
    return body

"""A stream's events. The newest events are kept for clients, and every event is sent to the sinks."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from pydantic import BaseModel

from serve_app.schemas.streams import EventType
from serve_app.sinks import Sink
from serve_app.types import Event, EventPage

_MAX_KEPT = 512  # how many events a client can catch up on after it reconnects
_MAX_PAGE = 128


class EventLog:
    """The event log of one stream. Use it from one event loop only."""

    def __init__(self, stream_id: str, sinks: Sequence[Sink], next_id: int = 0) -> None:
        self._stream_id = stream_id
        self._sinks = sinks
        self._next_id = next_id
        self._kept: deque[Event] = deque(maxlen=_MAX_KEPT)
        self._arrived = asyncio.Event()

    @property
    def next_id(self) -> int:
        """The id of the next event."""
        return self._next_id

    def add(self, kind: EventType, body: BaseModel) -> None:
        """Add an event with the current time and the fields of ``body``."""
        head = f'{{"event_id":{self._next_id},"type":"{kind}","stream_id":"{self._stream_id}","at_s":{time.time():.3f},'
        fields = body.model_dump_json(exclude={"stream_id"})  # a result has this field, too
        event = Event(self._next_id, kind, self._stream_id, head + fields[1:])
        self._next_id += 1
        self._kept.append(event)
        self._arrived.set()
        self._arrived = asyncio.Event()
        for sink in self._sinks:
            sink.put(event)

    async def page(self, after: int | None, within_s: float) -> EventPage:
        """Wait until there is an event with an id above ``after``, and return all such events, up to 128.

        If ``after`` is None, wait for the next event. Return an empty page after ``within_s`` seconds without an event.
        """
        after = self._next_id - 1 if after is None else after
        if after >= self._next_id - 1:
            try:
                await asyncio.wait_for(self._arrived.wait(), within_s)
            except TimeoutError:
                # An event may arrive together with the timeout. The page that we return ends before this event, so
                # that the next call finds it.
                return EventPage([], min(after, self._next_id - 1), 0)
        wanted = [event for event in self._kept if event.event_id > after]
        missed = wanted[0].event_id - after - 1 if wanted else 0
        return EventPage(wanted[:_MAX_PAGE], self._next_id - 1, missed)

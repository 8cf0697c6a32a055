"""A sink: events wait in a bounded queue until an outlet has taken them. Whoever puts them there never waits.

An event is handed over at least once: after a connection broke in the middle of a batch, all of it is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Collection, Iterator

from serve_app.schemas.streams import SinkStatus
from serve_app.streams.outputs.sinks.outlet import DeliveryFailed, DeliveryRefused, Outlet
from serve_app.types import Event

logger = logging.getLogger(__name__)

_MAX_WAITING = 1000  # events, besides the batch that is under way
_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 30.0


def retry_pauses_s() -> Iterator[float]:
    """Twice as long each time, up to a bound; by chance shorter, so that a server's sinks do not all come at once."""
    pause_s = _FIRST_RETRY_S
    while True:
        yield pause_s * random.uniform(0.5, 1)
        pause_s = min(2 * pause_s, _MAX_RETRY_S)


class Sink:
    """Hands ``events``, those types of them, to the outlet, in order. To be used from the event loop only.

    A batch that was not taken is tried again, later and later; meanwhile the queue drops its oldest. Every event ends
    as sent or as dropped: ``queue_full``, ``refused`` or ``closed``.
    """

    def __init__(self, kind: str, outlet: Outlet, *, stream_id: str, events: Collection[str]) -> None:
        self._kind = kind
        self._outlet = outlet
        self._stream_id = stream_id
        self._events = frozenset(events)
        self._waiting: deque[Event] = deque()
        self._batch: list[Event] = []  # under way
        self._sent = 0
        self._dropped: Counter[str] = Counter()
        self._detail = ""
        self._task: asyncio.Task[None] | None = None  # while anything waits
        self._closing = asyncio.Event()

    def put(self, event: Event) -> None:
        """Takes the event, if it is of a type that is wanted. Returns at once, whatever the outlet does."""
        if event.type not in self._events:
            return
        if self._closing.is_set():
            self._dropped["closed"] += 1
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._waiting.popleft()
            self._dropped["queue_full"] += 1
        self._waiting.append(event)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"sink of {self._stream_id}")

    def status(self) -> SinkStatus:
        """Its counters, and what is wrong now."""
        return SinkStatus(
            type=self._kind,
            target=self._outlet.target,
            sent=self._sent,
            waiting=len(self._batch) + len(self._waiting),
            dropped=dict(self._dropped),
            detail=self._detail,
        )

    async def close(self, within_s: float) -> None:
        """Sends what waits, for at most so long, and drops the rest. Then the outlet is closed."""
        self._closing.set()
        if task := self._task:
            try:
                await asyncio.wait({task}, timeout=within_s)
            finally:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if left := len(self._batch) + len(self._waiting):
            self._dropped["closed"] += left
            self._batch = []
            self._waiting.clear()
        await self._outlet.close()

    async def _run(self) -> None:
        """Batches, one after the other, until nothing waits."""
        try:
            while self._waiting:
                size = min(self._outlet.max_batch, len(self._waiting))
                self._batch = [self._waiting.popleft() for _ in range(size)]
                await self._deliver()
        finally:
            self._task = None

    async def _deliver(self) -> None:
        """The batch, until it is taken or refused."""
        pauses_s = retry_pauses_s()
        while self._batch:
            try:
                await self._outlet.send(self._batch)
            except DeliveryFailed as exc:
                self._say(str(exc))
            except DeliveryRefused as exc:
                self._refuse(str(exc))
            except Exception as exc:  # a bug: one batch must not be the end of all that follow
                self._refuse(f"the events cannot be sent: {type(exc).__name__}")
            else:
                self._say("")
                self._sent += len(self._batch)
                self._batch = []
            if self._batch:
                await self._pause(next(pauses_s))

    def _refuse(self, detail: str) -> None:
        self._say(detail)
        self._dropped["refused"] += len(self._batch)
        self._batch = []

    async def _pause(self, pause_s: float) -> None:
        """So long, but for closing, which is a reason to hurry."""
        if self._closing.is_set():
            await asyncio.sleep(_FIRST_RETRY_S)
            return
        try:
            async with asyncio.timeout(pause_s):
                await self._closing.wait()
        except TimeoutError:
            pass

    def _say(self, detail: str) -> None:
        if detail and not self._detail:
            logger.warning("stream %s: sink %s: %s", self._stream_id, self._outlet.target, detail)
        elif self._detail and not detail:
            logger.info("stream %s: sink %s works again", self._stream_id, self._outlet.target)
        self._detail = detail

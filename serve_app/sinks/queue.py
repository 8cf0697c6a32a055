"""A sink, which queues events until its outlet has sent them. Adding an event never blocks.

Delivery is at least once. If a connection breaks in the middle of a batch, the whole batch is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Collection, Iterator

from serve_app.schemas.sinks import SinkStatus
from serve_app.sinks.outlet import DeliveryFailed, DeliveryRefused, Outlet
from serve_app.types import Event

logger = logging.getLogger(__name__)

_MAX_WAITING = 1000  # the largest number of events in the queue; the batch in flight does not count
_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 30.0


def retry_pauses_s(max_s: float = _MAX_RETRY_S) -> Iterator[float]:
    """Yield the pauses between retries, which double from 0.2 s to ``max_s`` seconds.

    Each pause is shortened at random. Otherwise, all sinks that send to the same server would retry at the same moment.
    """
    pause_s = _FIRST_RETRY_S
    while True:
        yield pause_s * random.uniform(0.5, 1)
        pause_s = min(2 * pause_s, max_s)


class Sink:
    """Sends events to the outlet, in order. ``events`` lists the types to send. Use it in the event loop only.

    A batch that fails is retried with back-off. If the queue is full, its oldest event is dropped. Every event is
    counted as sent, or as dropped for one of the reasons ``queue_full``, ``refused`` and ``closed``. ``subject`` names
    the stream or the job in the log, as in ``stream lot``.
    """

    def __init__(self, kind: str, outlet: Outlet, *, subject: str, events: Collection[str]) -> None:
        self._kind = kind
        self._outlet = outlet
        self._subject = subject
        self._events = frozenset(events)
        self._waiting: deque[Event] = deque()
        self._batch: list[Event] = []  # the events in flight
        self._sent = 0
        self._dropped: Counter[str] = Counter()
        self._detail = ""
        self._task: asyncio.Task[None] | None = None  # runs while events are waiting
        self._closing = asyncio.Event()

    def put(self, event: Event) -> None:
        """Queue the event if it has one of the sink's types. This never waits for the outlet."""
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
            self._task = asyncio.create_task(self._run(), name=f"sink of {self._subject}")

    def status(self) -> SinkStatus:
        """Return the sink's counters and its current problem, if any."""
        return SinkStatus(
            type=self._kind,
            target=self._outlet.target,
            sent=self._sent,
            waiting=len(self._batch) + len(self._waiting),
            dropped=dict(self._dropped),
            detail=self._detail,
        )

    async def close(self, timeout_s: float) -> None:
        """Continue to send for up to ``timeout_s`` seconds, drop the remaining events, and close the outlet."""
        self._closing.set()
        if task := self._task:
            try:
                await asyncio.wait({task}, timeout=timeout_s)
            finally:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if left := len(self._batch) + len(self._waiting):
            self._dropped["closed"] += left
            self._batch = []
            self._waiting.clear()
        await self._outlet.close()

    async def _run(self) -> None:
        """Send one batch after another until the queue is empty."""
        try:
            while self._waiting:
                size = min(self._outlet.max_batch, len(self._waiting))
                self._batch = [self._waiting.popleft() for _ in range(size)]
                await self._deliver()
        finally:
            self._task = None

    async def _deliver(self) -> None:
        """Send the batch, and retry until it is sent or refused."""
        pauses_s = retry_pauses_s()
        while self._batch:
            try:
                await self._outlet.send(self._batch)
            except DeliveryFailed as exc:
                self._set_detail(str(exc))
            except DeliveryRefused as exc:
                self._refuse(str(exc))
            except Exception as exc:  # a bug, which must not stop later batches
                self._refuse(f"the events cannot be sent: {type(exc).__name__}")
            else:
                self._set_detail("")
                self._sent += len(self._batch)
                self._batch = []
            if self._batch:
                await self._pause(next(pauses_s))

    def _refuse(self, detail: str) -> None:
        self._set_detail(detail)
        self._dropped["refused"] += len(self._batch)
        self._batch = []

    async def _pause(self, pause_s: float) -> None:
        """Wait for ``pause_s`` seconds or until the sink begins to close. While the sink closes, wait for 0.2 s."""
        if self._closing.is_set():
            await asyncio.sleep(_FIRST_RETRY_S)
            return
        try:
            async with asyncio.timeout(pause_s):
                await self._closing.wait()
        except TimeoutError:
            pass

    def _set_detail(self, detail: str) -> None:
        if detail and not self._detail:
            logger.warning("%s: sink %s: %s", self._subject, self._outlet.target, detail)
        elif self._detail and not detail:
            logger.info("%s: sink %s works again", self._subject, self._outlet.target)
        self._detail = detail

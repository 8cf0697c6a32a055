"""The dynamic batcher: whatever waits when the engine becomes free is the next batch.

A batch that is frozen earlier stays small under load, since the pictures that arrive while the engine works wait
outside it. Plain asyncio; knows neither Ray nor models.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from serve_app.errors import DeadlineExceeded, Overloaded, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """A result, and how its item fared."""

    result: Result
    queue_s: float
    batch_size: int  # items taken together


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    expires_at_s: float
    queued_at_s: float
    answer: asyncio.Future[Batched[Result]]


class Batcher(Generic[Item, Result]):
    """Runs ``engine`` on up to ``max_batch_size`` items at a time, one batch at a time.

    ``engine`` takes a list of items and returns as many results in their order. ``drops`` counts, by reason, the
    items that never reached it: ``cancelled``, ``expired``, ``overloaded``.
    """

    def __init__(
        self,
        engine: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        max_batch_size: int,
        max_queue_size: int,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._clock_s = clock_s
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self.drops: Counter[str] = Counter()

    @property
    def queue_size(self) -> int:
        """Items that wait now."""
        return len(self._queue)

    async def submit(self, item: Item, *, time_left_s: float) -> Batched[Result]:
        """The item's result. Cancelling this takes the item out of the queue.

        Raises Overloaded at once when the queue is full, DeadlineExceeded when the time is up before the engine
        was free, and whatever the engine raised for the batch.
        """
        if len(self._queue) >= self._max_queue_size:
            self._forget_cancelled()
        if len(self._queue) >= self._max_queue_size:
            self.drops["overloaded"] += 1
            raise Overloaded("the detector's queue is full")
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._run(), name="batcher")
        now_s = self._clock_s()
        answer: asyncio.Future[Batched[Result]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(item, now_s + time_left_s, now_s, answer))
        self._arrived.set()
        return await answer

    async def close(self) -> None:
        """Stop. Whoever waits is told that this replica is going away."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        while self._queue:
            _fail(self._queue.popleft(), Unavailable("the detector is shutting down"))

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._take()
            if not self._queue:
                self._arrived.clear()
            if batch:
                await self._infer(batch)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The oldest items that someone still waits for."""
        now_s = self._clock_s()
        batch: list[_Waiting[Item, Result]] = []
        while self._queue and len(batch) < self._max_batch_size:
            waiting = self._queue.popleft()
            if waiting.answer.cancelled():
                self.drops["cancelled"] += 1
            elif waiting.expires_at_s <= now_s:
                self.drops["expired"] += 1
                _fail(waiting, DeadlineExceeded("the deadline passed while the picture waited for the detector"))
            else:
                batch.append(waiting)
        return batch

    async def _infer(self, batch: list[_Waiting[Item, Result]]) -> None:
        started_at_s = self._clock_s()
        try:
            results = await self._engine([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"the engine returned {len(results)} results for {len(batch)} items")
        except asyncio.CancelledError:
            for waiting in batch:
                _fail(waiting, Unavailable("the detector is shutting down"))
            raise
        except Exception as exc:  # the batch fails; the next one may not
            for waiting in batch:
                _fail(waiting, exc)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(Batched(result, started_at_s - waiting.queued_at_s, len(batch)))

    def _forget_cancelled(self) -> None:
        alive = [waiting for waiting in self._queue if not waiting.answer.cancelled()]
        if len(alive) < len(self._queue):
            self.drops["cancelled"] += len(self._queue) - len(alive)
            self._queue = deque(alive)


def _fail(waiting: _Waiting[Item, Result], exc: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(exc)

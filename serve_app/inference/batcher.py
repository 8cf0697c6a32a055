"""The dynamic batcher: whatever waits when the engine becomes free is the next batch.

A batch that is frozen earlier stays small under load, since the pictures that arrive while the engine works wait
outside it. Plain asyncio; knows neither Ray nor models.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from serve_app.errors import DeadlineExceeded, Overloaded, ReplicaGone, ServeAppError
from serve_app.inference.batch_size import WEIGHT_OF_NEWEST, BatchSize
from serve_app.inference.fair_queue import FairQueue
from serve_app.types import Traffic

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """A result, and how its item fared."""

    result: Result
    queue_s: float
    batch_size: int  # items taken together


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    traffic: Traffic
    expires_at_s: float
    queued_at_s: float
    isolated: bool
    superseded: int
    answer: asyncio.Future[Batched[Result]]


class Batcher(Generic[Item, Result]):
    """Runs ``engine`` on up to ``max_batch_size`` items at a time, on ``concurrency`` batches at once.

    ``engine`` takes a list of items and returns as many results in their order. A batch is as large as pays (see
    ``BatchSize``). Items are served in the order of ``FairQueue``, with these ``weights``; each kind of traffic has
    room for ``max_queue_size``. An item that is isolated comes before them, and nothing else is in the engine then;
    so is each item of a batch that failed. ``drops`` counts, by kind and reason, the items that never reached the
    engine: ``cancelled``, ``expired``, ``overloaded``.
    """

    def __init__(
        self,
        engine: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        max_batch_size: int,
        max_queue_size: int,
        weights: Mapping[Traffic, float],
        items_per_s: float,
        concurrency: int = 1,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``items_per_s`` is what the engine was found to do before."""
        self.items_per_s = items_per_s  # while it had as much to do as it can, on average
        self._engine = engine
        self._batch_size = BatchSize(max_batch_size, clock_s)
        self._clock_s = clock_s
        self._queue = FairQueue[_Waiting[Item, Result]](weights, max_queue_size, self._is_wanted)
        self._isolated: deque[_Waiting[Item, Result]] = deque()
        self._one_is_isolated = False  # in the engine, now
        self._max_queue_size = max_queue_size
        self._concurrency = concurrency
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        self.drops: dict[Traffic, Counter[str]] = {traffic: Counter() for traffic in weights}
        self._began_s: dict[asyncio.Task[Any] | None, float] = {}  # of each batch that is in the engine
        self._demand_since_s = clock_s()  # since then:
        self._work_s = 0.0  # of the engine's time,
        self._missed = 0.0  # and items that it was too busy for

    @property
    def queue_sizes(self) -> dict[Traffic, int]:
        """Items that wait now, by kind of traffic."""
        return self._queue.sizes()

    @property
    def load(self) -> int:
        """Items that wait, and batches that are being run."""
        return len(self._queue) + len(self._isolated) + len(self._running)

    @property
    def in_engine_s(self) -> float:
        """For how long the batch that is in the engine longest has been there; 0 where none is."""
        return self._clock_s() - min(self._began_s.values()) if self._began_s else 0.0

    def take_demand(self) -> float:
        """The share of the time since the last call that the engine needed, or would have, for dropped items, too.

        Over 1 it cannot keep up. Needed in batches as large as pay: one that takes what waits is never idle for long,
        however little that is.
        """
        now_s = self._clock_s()
        demand = (self._work_s + self._missed / self.items_per_s) / max(now_s - self._demand_since_s, 1e-3)
        self._demand_since_s, self._work_s, self._missed = now_s, 0.0, 0.0
        return demand

    @property
    def backlog_s(self) -> float:
        """The time that the engine needs for what waits now, beyond the next batches."""
        waiting = len(self._queue) + len(self._isolated)
        return max(0, waiting - self._batch_size.limit * self._concurrency) / self.items_per_s

    async def submit(
        self,
        item: Item,
        *,
        time_left_s: float,
        traffic: Traffic = "interactive",
        tenant: str = "",
        isolated: bool = False,
        superseded: int = 0,
    ) -> Batched[Result]:
        """The item's result. Cancelling this takes the item out of the queue.

        ``superseded``: items that the sender would have sent since its last one, had that not been in flight.

        Raises Overloaded when the queue is full (also later, when this item must make room for another tenant's),
        DeadlineExceeded when the time is up before the engine was free, ReplicaGone when the batcher closes, and
        whatever the engine raised for the item alone.
        """
        if self._closed:
            raise ReplicaGone("the detector is shutting down")
        now_s = self._clock_s()
        answer: asyncio.Future[Batched[Result]] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(item, traffic, now_s + time_left_s, now_s, isolated, superseded, answer)
        try:
            displaced = None
            if isolated:
                self._put_isolated(waiting)
            else:
                displaced = self._queue.put(waiting, traffic, tenant)
        except Overloaded as exc:
            self._drop(waiting, "overloaded", exc)
        else:
            if displaced is not None:
                full = Overloaded(
                    "batcher.max_queue_size: the queue for the engine is full of this tenant's pictures; retry later "
                    "or raise it",
                    limit="batcher.max_queue_size",
                )
                self._drop(displaced, "overloaded", full)
            self._start()
        return await answer

    def set_weights(self, weights: Mapping[Traffic, float]) -> None:
        """Other weights from now on, of the same kinds of traffic."""
        self._queue.set_weights(weights)

    async def drain(self) -> None:
        """Until nothing waits, and nothing runs."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        """Stop. Whoever waits is told that this replica is going away."""
        self._closed = True
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for waiting in (*self._isolated, *self._queue.drain()):
            _fail(waiting, ReplicaGone("the detector is shutting down"))

    def _put_isolated(self, waiting: _Waiting[Item, Result]) -> None:
        if len(self._isolated) >= self._max_queue_size:
            raise Overloaded(
                f"batcher.max_queue_size: {self._max_queue_size} pictures wait to be alone in the engine, which is the "
                "limit; retry later or raise it",
                limit="batcher.max_queue_size",
            )
        self._isolated.append(waiting)

    def _start(self) -> None:
        if len(self._running) < self._concurrency:
            self._running.add(asyncio.create_task(self._run(), name="batcher"))

    async def _run(self) -> None:
        """Batches, one after the other, until nothing waits."""
        try:
            while batch := self._take():
                await self._infer(batch)
        finally:  # here, not in a callback: an item that comes in between would wait for nobody
            self._running.discard(asyncio.current_task())

    def _take(self) -> list[_Waiting[Item, Result]]:
        if self._one_is_isolated:
            return []
        while self._isolated:
            if len(self._running) > 1:
                return []  # the last of them takes it
            if self._is_wanted(lone := self._isolated.popleft()):
                return [lone]
        batch: list[_Waiting[Item, Result]] = []
        while len(batch) < self._batch_size.limit and (waiting := self._queue.take()) is not None:
            batch.append(waiting)
        return batch

    def _is_wanted(self, waiting: _Waiting[Item, Result]) -> bool:
        """Whether someone still waits for it, in time; else it is counted, and told."""
        if waiting.answer.done():
            self.drops[waiting.traffic]["cancelled"] += 1
            return False
        if waiting.expires_at_s <= self._clock_s():
            late = DeadlineExceeded("the deadline passed while the picture waited for the detector")
            self._drop(waiting, "expired", late)
            return False
        return True

    def _drop(self, waiting: _Waiting[Item, Result], reason: str, error: ServeAppError) -> None:
        self.drops[waiting.traffic][reason] += 1
        self._missed += 1
        _fail(waiting, error)

    async def _infer(self, batch: list[_Waiting[Item, Result]]) -> None:
        started_at_s = self._began_s[asyncio.current_task()] = self._clock_s()
        self._one_is_isolated = batch[0].isolated
        was_full = len(self._running) == self._concurrency
        try:
            results = await self._engine([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"the engine returned {len(results)} results for {len(batch)} items")
        except asyncio.CancelledError:
            for waiting in batch:
                _fail(waiting, ReplicaGone("the detector is shutting down"))
            raise
        except Exception as exc:
            for waiting in batch:
                if len(batch) == 1:
                    _fail(waiting, exc)
                else:  # one of them may be the reason: each once more, alone
                    waiting.isolated = True
                    self._isolated.append(waiting)
            return
        finally:
            self._one_is_isolated = False
            del self._began_s[asyncio.current_task()]
            took_s = max(self._clock_s() - started_at_s, 1e-6)
            self._work_s += min(took_s, len(batch) / self.items_per_s)
        self._batch_size.observe(len(batch), took_s)
        is_full = len(self._running) == self._concurrency and len(batch) == self._batch_size.limit
        if was_full and is_full and len(self._queue):
            self.items_per_s += WEIGHT_OF_NEWEST * (len(batch) * self._concurrency / took_s - self.items_per_s)
        for waiting, result in zip(batch, results, strict=True):
            queue_s = started_at_s - waiting.queued_at_s
            # No more than the sender could have had done meanwhile: what is superseded for being faster than the engine
            # is, without any queue, no further engine would take.
            self._missed += min(waiting.superseded, queue_s / took_s)
            if not waiting.answer.done():
                waiting.answer.set_result(Batched(result, queue_s, len(batch)))


def _fail(waiting: _Waiting[Item, Result], exc: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(exc)

"""The dynamic batcher: when the engine becomes free, all waiting items form the next batch.

A batch that was closed earlier would stay small under load, because it would miss the images that arrive while the
engine is busy. This module uses plain asyncio and imports neither Ray nor models.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from serve_app.errors import DeadlineExceeded, Overloaded, ReplicaGone, ServeAppError
from serve_app.inference.batch_size import WEIGHT_OF_NEWEST, BatchSize
from serve_app.inference.fair_queue import FairQueue
from serve_app.types import Traffic

# While clients send images, a batch takes the engine for at most about this time, unless more of its images are the
# clients', or a smaller batch would hardly be faster. A client of Frigate waits for 0.1 s in all, and its image must
# wait for the batch before it. Some engines take several images at once, but one by one, not as a batch. Jobs then
# leave one of these places free.
_CLIENT_BATCH_S = 0.025
_CLIENT_INTERVAL_S = 1.0  # clients send images if the last one arrived less than this time ago

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """A result, with the waiting time of its item and the size of its batch."""

    result: Result
    queue_s: float
    batch_size: int  # the number of items in the batch


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    traffic: Traffic
    shape: Hashable
    cost: float
    expires_at_s: float
    queued_at_s: float
    isolated: bool
    superseded: int
    answer: asyncio.Future[Batched[Result]]


class Batcher(Generic[Item, Result]):
    """A queue that runs ``engine`` on batches of waiting items.

    ``engine`` takes a list of items and returns one result per item, in the same order. Up to ``concurrency`` batches
    run at once, each with up to ``max_batch_size`` items of one shape. For each shape, the size of batches adapts to
    the engine (see ``BatchSize``). ``FairQueue`` holds up to ``max_queue_size`` items per kind of traffic, and orders
    the items by ``weights``. The first item in this order determines the shape of the next batch, so a shape that few
    items have is served in its turn. Isolated items are served before all other items, and each of them is alone in the
    engine. When a batch fails, each of its items is retried as an isolated item. ``drops`` counts the items that never
    reached the engine, by kind of traffic and by reason: ``cancelled``, ``expired`` or ``overloaded``.
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
        """Create a batcher for one event loop.

        ``items_per_s`` is the throughput measured before the first batch, for items whose cost is 1.
        """
        self.items_per_s = items_per_s  # average throughput at full load, in items of cost 1
        self._engine = engine
        # The engine's gain from batches differs between shapes, so each shape has its own sizes.
        self._batch_sizes = defaultdict[Hashable, BatchSize](lambda: BatchSize(max_batch_size, clock_s))
        self._clock_s = clock_s
        self._queue = FairQueue[_Waiting[Item, Result]](weights, max_queue_size, self._is_wanted)
        self._isolated: deque[_Waiting[Item, Result]] = deque()
        self._is_isolated_running = False
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._concurrency = concurrency
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        self._client_at_s = -math.inf  # when the last interactive item arrived
        self.drops: dict[Traffic, Counter[str]] = {traffic: Counter() for traffic in weights}
        self._started_at_s: dict[asyncio.Task[Any] | None, float] = {}  # when each running batch entered the engine
        self._demand_since_at_s = clock_s()  # when ``_work_s`` and ``_missed`` were last set to 0
        self._work_s = dict.fromkeys(weights, 0.0)  # the engine time of the finished batches, by kind of traffic
        # The costs of the items that were dropped or skipped because the engine was busy.
        self._missed = dict.fromkeys(weights, 0.0)

    @property
    def queue_sizes(self) -> dict[Traffic, int]:
        """The number of waiting items by kind of traffic."""
        return self._queue.sizes()

    @property
    def load(self) -> int:
        """The number of waiting items plus the number of running batches."""
        return len(self._queue) + len(self._isolated) + len(self._running)

    @property
    def in_engine_s(self) -> float:
        """The time since the oldest running batch entered the engine, or 0 if no batch is running."""
        return self._clock_s() - min(self._started_at_s.values()) if self._started_at_s else 0.0

    def take_demand(self) -> dict[Traffic, float]:
        """Return the engine time needed since the last call, divided by the time since the last call.

        The result is by kind of traffic. A sum above 1 means that the engine cannot keep up. The needed time includes
        the time that dropped items would have taken. A small batch may take more time per item than a full batch. So
        for each batch, we count at most the time that its items would take in a full batch. Otherwise, the many small
        batches under light load would look like a high demand.
        """
        now_s = self._clock_s()
        over_s = max(now_s - self._demand_since_at_s, 1e-3)
        demand = {
            traffic: (work_s + self._missed[traffic] / self.items_per_s) / over_s
            for traffic, work_s in self._work_s.items()
        }
        self._demand_since_at_s = now_s
        self._work_s, self._missed = dict.fromkeys(demand, 0.0), dict.fromkeys(demand, 0.0)
        return demand

    @property
    def backlog_s(self) -> float:
        """The engine time for the waiting items that do not fit into the next batches.

        The next batches are as many full batches as can run at once (``concurrency``).
        """
        return self._engine_time_s(self._queue.sizes(), self._queue.costs())

    @property
    def backlog_without_jobs_s(self) -> float:
        """The same time, if no batch job's items were waiting."""
        sizes, costs = self._queue.sizes(), self._queue.costs()
        return self._engine_time_s({**sizes, "job": 0}, {**costs, "job": 0.0})

    def _engine_time_s(self, sizes: Mapping[Traffic, int], costs: Mapping[Traffic, float]) -> float:
        waiting = sum(sizes.values()) + len(self._isolated)
        cost = sum(costs.values()) + sum(isolated.cost for isolated in self._isolated)
        fitting = max((size.limit for size in self._batch_sizes.values()), default=1) * self._concurrency
        return cost * (1 - fitting / waiting) / self.items_per_s if waiting > fitting else 0.0

    async def submit(
        self,
        item: Item,
        *,
        time_left_s: float,
        traffic: Traffic = "interactive",
        tenant: str = "",
        shape: Hashable = None,
        cost: float = 1.0,
        isolated: bool = False,
        superseded: int = 0,
    ) -> Batched[Result]:
        """Queue an item and return its result. Cancelling the call removes the item from the queue.

        All items of a batch have the same ``shape``. ``cost`` is the engine time that an item of this shape takes,
        relative to the time of an item of cost 1. ``superseded`` is the number of items that the sender skipped while
        its previous item was in flight.

        Raise Overloaded if the queue is full, or if another tenant's item later displaces this item. Raise
        DeadlineExceeded if the engine is not free within ``time_left_s``, ReplicaGone if the batcher closes, and the
        engine's error if the item fails in isolation.
        """
        if self._closed:
            raise ReplicaGone("the detector is shutting down")
        now_s = self._clock_s()
        answer: asyncio.Future[Batched[Result]] = asyncio.get_running_loop().create_future()
        if traffic == "interactive":
            self._client_at_s = now_s
        waiting = _Waiting(item, traffic, shape, cost, now_s + time_left_s, now_s, isolated, superseded, answer)
        try:
            displaced = None
            if isolated:
                self._put_isolated(waiting)
            else:
                displaced = self._queue.put(waiting, traffic, tenant, shape=shape, cost=cost)
        except Overloaded as exc:
            self._drop(waiting, "overloaded", exc)
        else:
            if displaced is not None:
                full = Overloaded(
                    "batcher.max_queue_size: the queue for the engine is full of this tenant's images; retry later "
                    "or raise the limit",
                    limit="batcher.max_queue_size",
                )
                self._drop(displaced, "overloaded", full)
            self._start()
        return await answer

    def set_weights(self, weights: Mapping[Traffic, float]) -> None:
        """Set the share of the engine that each kind of traffic gets from now on."""
        self._queue.set_weights(weights)

    async def drain(self) -> None:
        """Wait until no item is waiting or running."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        """Stop the batcher. Waiting and running items fail with ReplicaGone."""
        self._closed = True
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for waiting in (*self._isolated, *self._queue.drain()):
            _fail(waiting, ReplicaGone("the detector is shutting down"))

    def _put_isolated(self, waiting: _Waiting[Item, Result]) -> None:
        if len(self._isolated) >= self._max_queue_size:
            raise Overloaded(
                f"batcher.max_queue_size: {self._max_queue_size} images wait to run alone in the engine, so the queue "
                "is full; retry later or raise the limit",
                limit="batcher.max_queue_size",
            )
        self._isolated.append(waiting)

    def _start(self) -> None:
        if len(self._running) < self._concurrency:
            self._running.add(asyncio.create_task(self._run(), name="batcher"))

    async def _run(self) -> None:
        """Run one batch after another until no item is waiting."""
        try:
            while batch := self._take():
                await self._infer(batch)
        finally:
            # A done callback of the task would run too late. If an item arrived before the callback, no task would
            # serve that item.
            self._running.discard(asyncio.current_task())

    def _take(self) -> list[_Waiting[Item, Result]]:
        if self._is_isolated_running:
            return []
        while self._isolated:
            if len(self._running) > 1:
                return []  # other batches are still running; the task whose batch ends last takes the isolated item
            if self._is_wanted(lone := self._isolated.popleft()):
                return [lone]
        sizes, has_clients = self._queue.sizes(), self._clock_s() - self._client_at_s < _CLIENT_INTERVAL_S
        clients, only_jobs = sizes.get("interactive", 0), sizes.get("job", 0) == len(self._queue)
        if has_clients and only_jobs and self._max_batch_size == 1 and 1 < self._concurrency == len(self._running):
            return []  # the next image of a client then need not wait for the end of a batch
        if (first := self._queue.take()) is None:
            return []
        batch, size = [first], self._batch_sizes[first.shape]
        limit = size.limit
        if has_clients:
            limit = min(limit, max(size.within(_CLIENT_BATCH_S), clients))
        # A sender of this shape may be served up to a full batch before its turn.
        max_lead = limit * first.cost
        while len(batch) < limit and (waiting := self._queue.take_like(first.shape, max_lead)) is not None:
            batch.append(waiting)
        return batch

    def _is_wanted(self, waiting: _Waiting[Item, Result]) -> bool:
        """Return whether the item is still wanted.

        Count a cancelled or expired item as dropped. Answer an expired item with DeadlineExceeded.
        """
        if waiting.answer.done():
            self.drops[waiting.traffic]["cancelled"] += 1
            return False
        if waiting.expires_at_s <= self._clock_s():
            late = DeadlineExceeded("the deadline passed while the image waited for the detector")
            self._drop(waiting, "expired", late)
            return False
        return True

    def _drop(self, waiting: _Waiting[Item, Result], reason: str, error: ServeAppError) -> None:
        self.drops[waiting.traffic][reason] += 1
        self._missed[waiting.traffic] += waiting.cost
        _fail(waiting, error)

    async def _infer(self, batch: list[_Waiting[Item, Result]]) -> None:
        started_at_s = self._started_at_s[asyncio.current_task()] = self._clock_s()
        self._is_isolated_running = batch[0].isolated
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
                else:  # a single item may be the cause, so each item is retried alone
                    waiting.isolated = True
                    self._isolated.append(waiting)
            return
        finally:
            self._is_isolated_running = False
            del self._started_at_s[asyncio.current_task()]
            took_s = max(self._clock_s() - started_at_s, 1e-6)
            cost = sum(waiting.cost for waiting in batch)
            for waiting in batch:
                self._work_s[waiting.traffic] += waiting.cost * min(took_s / cost, 1 / self.items_per_s)
        size = self._batch_sizes[batch[0].shape]
        size.observe(len(batch), took_s)
        is_full = len(self._running) == self._concurrency and len(batch) == size.limit
        if was_full and is_full and len(self._queue):
            self.items_per_s += WEIGHT_OF_NEWEST * (cost * self._concurrency / took_s - self.items_per_s)
        for waiting, result in zip(batch, results, strict=True):
            queue_s = started_at_s - waiting.queued_at_s
            # Count at most as many skipped items as the engine could have processed while this item waited. If
            # a sender is faster than one engine, it skips items even without a queue, and more engines would not help.
            self._missed[waiting.traffic] += waiting.cost * min(waiting.superseded, queue_s / took_s)
            if not waiting.answer.done():
                waiting.answer.set_result(Batched(result, queue_s, len(batch)))


def _fail(waiting: _Waiting[Item, Result], exc: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(exc)

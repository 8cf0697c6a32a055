from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from anyio import wait_all_tasks_blocked

from serve_app.batcher import Batched, Batcher
from serve_app.errors import DeadlineExceeded, Overloaded, Unavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class GatedEngine:
    """Doubles numbers, one batch each time the test opens the gate; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Semaphore(0)

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        await self.gate.acquire()
        return [2 * item for item in items]


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def batching(
    engine: GatedEngine, *, max_batch_size: int = 4, max_queue_size: int = 8, clock: Clock | None = None
) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher(engine, max_batch_size=max_batch_size, max_queue_size=max_queue_size, clock_s=clock or Clock())
    try:
        yield batcher
    finally:
        await batcher.close()


def submit(batcher: Batcher[int, int], *items: int, time_left_s: float = 60) -> list[asyncio.Task[Batched[int]]]:
    return [asyncio.create_task(batcher.submit(item, time_left_s=time_left_s)) for item in items]


async def test_what_arrives_while_the_engine_works_is_the_next_batch() -> None:
    engine = GatedEngine()
    async with batching(engine) as batcher:
        first = submit(batcher, 1)
        await wait_all_tasks_blocked()
        rest = submit(batcher, 2, 3, 4)
        await wait_all_tasks_blocked()
        assert engine.batches == [[1]]
        engine.gate.release()
        await wait_all_tasks_blocked()
        assert engine.batches == [[1], [2, 3, 4]]
        engine.gate.release()
        answers = await asyncio.gather(*first, *rest)
    assert [answer.result for answer in answers] == [2, 4, 6, 8]
    assert [answer.batch_size for answer in answers] == [1, 3, 3, 3]


async def test_a_batch_is_never_larger_than_allowed_and_order_is_kept() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=3) as batcher:
        tasks = submit(batcher, *range(8))
        for _ in range(3):
            engine.gate.release()
        await asyncio.gather(*tasks)
    assert engine.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_a_full_queue_refuses_at_once() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, max_queue_size=2) as batcher:
        tasks = submit(batcher, 1)
        await wait_all_tasks_blocked()
        tasks += submit(batcher, 2, 3)
        await wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await batcher.submit(4, time_left_s=60)
        assert batcher.drops == {"overloaded": 1}
        for _ in tasks:
            engine.gate.release()
        assert [answer.result for answer in await asyncio.gather(*tasks)] == [2, 4, 6]


async def test_the_cancelled_never_reach_the_engine() -> None:
    engine = GatedEngine()
    async with batching(engine) as batcher:
        submit(batcher, 1)
        await wait_all_tasks_blocked()
        cancelled, kept = submit(batcher, 2, 3)
        await wait_all_tasks_blocked()
        cancelled.cancel()
        engine.gate.release()
        await wait_all_tasks_blocked()
        engine.gate.release()
        assert (await kept).batch_size == 1
        assert engine.batches == [[1], [3]]
        assert batcher.drops == {"cancelled": 1}


async def test_the_cancelled_make_room_in_a_full_queue() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, max_queue_size=1) as batcher:
        submit(batcher, 1)
        await wait_all_tasks_blocked()
        (cancelled,) = submit(batcher, 2)
        await wait_all_tasks_blocked()
        cancelled.cancel()
        await wait_all_tasks_blocked()
        (kept,) = submit(batcher, 3)
        engine.gate.release()
        engine.gate.release()
        assert (await kept).result == 6


async def test_the_expired_never_reach_the_engine() -> None:
    engine, clock = GatedEngine(), Clock()
    async with batching(engine, clock=clock) as batcher:
        submit(batcher, 1)
        await wait_all_tasks_blocked()
        (expired,) = submit(batcher, 2, time_left_s=5)
        (kept,) = submit(batcher, 3, time_left_s=50)
        await wait_all_tasks_blocked()
        clock.now_s = 5.0
        engine.gate.release()
        engine.gate.release()
        with pytest.raises(DeadlineExceeded):
            await expired
        assert (await kept).queue_s == 5.0
        assert engine.batches == [[1], [3]]
        assert batcher.drops == {"expired": 1}


async def test_a_failed_batch_fails_alone() -> None:
    engine = GatedEngine()

    async def fail_on_zero(items: list[int]) -> Sequence[int]:
        if 0 in items:
            raise ZeroDivisionError
        return await engine(items)

    async with batching(fail_on_zero, max_batch_size=1) as batcher:
        bad, good = submit(batcher, 0, 1)
        engine.gate.release()
        with pytest.raises(ZeroDivisionError):
            await bad
        assert (await good).result == 2


async def test_an_engine_that_loses_a_result_fails_its_batch() -> None:
    async def lossy(items: list[int]) -> Sequence[int]:
        return items[1:]

    async with batching(lossy) as batcher:
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await batcher.submit(1, time_left_s=60)


async def test_closing_tells_whoever_waits() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1) as batcher:
        tasks = submit(batcher, 1, 2)
        await wait_all_tasks_blocked()
    for task in tasks:
        with pytest.raises(Unavailable):
            await task

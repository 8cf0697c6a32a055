"""The demand and the backlog that the batcher reports for autoscaling."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from anyio import wait_all_tasks_blocked

from serve_app.inference.batcher import Batcher
from serve_app.types import Traffic
from tests.support.batching import GatedEngine, TimedEngine, batching, submit
from tests.support.clock import Clock

pytestmark = pytest.mark.anyio


async def test_demand_counts_engine_time_and_dropped_items() -> None:
    """In ten seconds, the engine works for two seconds, and two images are dropped because the queue is full."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.5 * size)
    async with batching(engine, max_batch_size=1, max_queue_size=4, items_per_s=2, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(6), time_left_s=1e6), return_exceptions=True)
        clock.now_s = 10
        assert sum(batcher.take_demand().values()) == pytest.approx(0.3)
        clock.now_s = 20
        assert sum(batcher.take_demand().values()) == 0


async def test_small_batches_do_not_increase_the_demand() -> None:
    """The engine can process 40 images per second, gets 20 per second in small batches, and is never idle."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.2)
    async with batching(engine, max_batch_size=8, items_per_s=40, clock=clock) as batcher:
        for _ in range(10):
            await asyncio.gather(*submit(batcher, *range(4), time_left_s=1e6))
        assert max(engine.sizes) == 4
        assert sum(batcher.take_demand().values()) == pytest.approx(40 / 40 / clock.now_s)
        assert batcher.items_per_s == 40


async def test_the_demand_on_an_engine_that_became_faster_is_at_most_its_working_time() -> None:
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.1)
    async with batching(engine, items_per_s=1, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, 1, time_left_s=1e6))
        clock.now_s = 1
        assert sum(batcher.take_demand().values()) == pytest.approx(0.1)


@pytest.mark.parametrize("cost", [1, 0.5])
@pytest.mark.parametrize(("superseded", "counted"), [(0, 0), (1, 1), (5, 2)])
async def test_superseded_frames_count_only_as_far_as_the_engine_could_have_processed_them(
    superseded: int, counted: int, cost: float
) -> None:
    """The frame supersedes up to five older frames, and waits for two batches.

    During this wait, the engine could have processed two of the superseded frames.
    """
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 1)
    async with batching(engine, max_batch_size=1, items_per_s=1, clock=clock) as batcher:
        ahead = submit(batcher, 1, 2, time_left_s=1e6)
        frame = asyncio.create_task(batcher.submit(3, time_left_s=1e6, cost=cost, superseded=superseded))
        await asyncio.gather(*ahead, frame)
        clock.now_s = 10
        assert sum(batcher.take_demand().values()) == pytest.approx((2 + cost + cost * counted) / 10)


async def test_items_that_fit_into_the_next_batches_are_no_backlog() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, concurrency=2, items_per_s=10) as batcher:
        tasks = submit(batcher, 1, 2, 3, 4)
        await wait_all_tasks_blocked()
        assert engine.batches == [[1], [2]]
        assert batcher.backlog_s == 0
        tasks += submit(batcher, 5, 6, 7)
        await wait_all_tasks_blocked()
        assert batcher.backlog_s == pytest.approx(0.3)
        for _ in tasks:
            engine.gate.release()
        await asyncio.gather(*tasks)
        assert batcher.backlog_s == 0


async def test_the_demand_on_an_engine_that_never_pauses_is_1_for_any_concurrency() -> None:
    """Two batches at once take twice as long as a single batch, so the throughput stays at half an image per second."""
    clock = Clock()
    gate, begun = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def engine(items: list[int]) -> Sequence[int]:
        begun.release()
        await gate.acquire()
        return items

    async with batching(engine, max_batch_size=1, concurrency=2, items_per_s=0.5, clock=clock) as batcher:
        first, second = submit(batcher, 1, 2, time_left_s=1e6)
        await begun.acquire()
        await begun.acquire()
        clock.now_s = 4
        gate.release()
        gate.release()
        await asyncio.gather(first, second)
        assert sum(batcher.take_demand().values()) == pytest.approx(1)
        clock.now_s = 8
        assert sum(batcher.take_demand().values()) == 0


async def test_the_time_of_failed_batches_counts_as_demand() -> None:
    clock = Clock()

    async def fail(items: list[int]) -> Sequence[int]:
        clock.now_s += 2
        raise ValueError

    async with batching(fail, max_batch_size=1, items_per_s=0.5, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, 1, 2, time_left_s=1e6), return_exceptions=True)
        clock.now_s = 10
        assert sum(batcher.take_demand().values()) == pytest.approx(0.4)


async def test_the_throughput_of_an_engine_is_measured_at_full_load() -> None:
    """The batcher first assumes 100 images per second, but the engine processes 40."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.2)
    async with batching(engine, max_batch_size=8, max_queue_size=400, items_per_s=100, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(400), time_left_s=1e6))
        assert batcher.items_per_s == pytest.approx(40, rel=0.01)


async def test_the_demand_and_the_measured_throughput_are_in_engine_time_for_any_mix_of_shapes() -> None:
    """A square takes 0.1 s and a half takes 0.05 s. The measured throughput is that of squares."""
    clock = Clock()

    async def engine(costs: list[float]) -> Sequence[float]:
        clock.now_s += 0.1 * sum(costs)
        return costs

    batcher = Batcher(
        engine, max_batch_size=4, max_queue_size=100, weights={"interactive": 1}, items_per_s=10, clock_s=clock
    )  # fmt: skip
    costs = [1.0, 0.5] * 40
    await asyncio.gather(*(batcher.submit(cost, time_left_s=1e6, shape=cost, cost=cost) for cost in costs))
    assert clock.now_s == pytest.approx(6)
    assert batcher.items_per_s == pytest.approx(10)
    clock.now_s = 10
    assert batcher.take_demand()["interactive"] == pytest.approx(0.6)


async def test_dropped_items_count_with_their_costs() -> None:
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.5)
    async with batching(engine, max_batch_size=1, max_queue_size=4, items_per_s=1, clock=clock) as batcher:
        submissions = (batcher.submit(number, time_left_s=1e6, shape="half", cost=0.5) for number in range(6))
        await asyncio.gather(*submissions, return_exceptions=True)
        clock.now_s = 10
        assert batcher.take_demand()["interactive"] == pytest.approx(6 * 0.5 / 10)


async def test_the_backlog_counts_items_with_their_costs() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, max_queue_size=20, items_per_s=10) as batcher:
        tasks = submit(batcher, 0)
        await wait_all_tasks_blocked()
        traffics: list[Traffic] = ["interactive", "interactive", "interactive", "job", "job"]
        for traffic in traffics:
            submission = batcher.submit(1, time_left_s=60, traffic=traffic, shape="half", cost=0.5)
            tasks.append(asyncio.create_task(submission))
        await wait_all_tasks_blocked()
        assert batcher.backlog_s == pytest.approx(4 * 0.05)  # one of the five items fits into the next batch
        assert batcher.backlog_without_jobs_s == pytest.approx(2 * 0.05)
        for _ in tasks:
            engine.gate.release()
        await asyncio.gather(*tasks)
        assert (batcher.backlog_s, batcher.backlog_without_jobs_s) == (0, 0)

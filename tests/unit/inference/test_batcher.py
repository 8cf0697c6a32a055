from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from anyio import wait_all_tasks_blocked

from serve_app.errors import DeadlineExceeded, Overloaded, ReplicaGone
from serve_app.inference.batcher import Batched, Batcher
from serve_app.types import Traffic

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
    engine: GatedEngine,
    *,
    max_batch_size: int = 4,
    max_queue_size: int = 8,
    items_per_s: float = 1.0,
    concurrency: int = 1,
    clock: Clock | None = None,
) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher(
        engine,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        weights={"interactive": 8, "stream": 4, "job": 1},
        items_per_s=items_per_s,
        concurrency=concurrency,
        clock_s=clock or Clock(),
    )
    try:
        yield batcher
    finally:
        await batcher.close()


def submit(
    batcher: Batcher[int, int], *items: int, time_left_s: float = 60, traffic: Traffic = "interactive", tenant: str = ""
) -> list[asyncio.Task[Batched[int]]]:
    return [
        asyncio.create_task(batcher.submit(item, time_left_s=time_left_s, traffic=traffic, tenant=tenant))
        for item in items
    ]


async def test_what_arrives_while_the_engine_works_is_the_next_batch() -> None:
    engine = GatedEngine()
    async with batching(engine) as batcher:
        first = submit(batcher, 1)
        await wait_all_tasks_blocked()
        rest = submit(batcher, 2, 3)
        await wait_all_tasks_blocked()
        assert engine.batches == [[1]]
        engine.gate.release()
        await wait_all_tasks_blocked()
        assert engine.batches == [[1], [2, 3]]
        engine.gate.release()
        answers = await asyncio.gather(*first, *rest)
    assert [answer.result for answer in answers] == [2, 4, 6]
    assert [answer.batch_size for answer in answers] == [1, 2, 2]


async def test_a_batch_is_never_larger_than_allowed_and_order_is_kept() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=3) as batcher:
        tasks = submit(batcher, *range(8))
        for _ in range(4):
            engine.gate.release()
        await asyncio.gather(*tasks)
    assert engine.batches == [[0], [1, 2], [3, 4, 5], [6, 7]]  # it grows while it pays


async def test_a_full_queue_refuses_at_once() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, max_queue_size=2) as batcher:
        tasks = submit(batcher, 1)
        await wait_all_tasks_blocked()
        tasks += submit(batcher, 2, 3)
        await wait_all_tasks_blocked()
        with pytest.raises(Overloaded) as refusal:
            await batcher.submit(4, time_left_s=60)
        assert refusal.value.limit == "batcher.max_queue_size"
        assert batcher.drops["interactive"] == {"overloaded": 1}
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
        assert batcher.drops["interactive"] == {"cancelled": 1}


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
        assert batcher.drops["interactive"] == {"expired": 1}


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


async def test_in_a_batch_that_fails_only_the_item_that_fails_alone_is_refused() -> None:
    engine, batches = GatedEngine(), []

    async def fail_on_zero(items: list[int]) -> Sequence[int]:
        batches.append(items)
        if 0 in items:
            raise ZeroDivisionError
        return await engine(items)

    async with batching(fail_on_zero) as batcher:
        first = submit(batcher, 9)
        await wait_all_tasks_blocked()
        bad, *good = submit(batcher, 0, 1)
        for _ in range(2):
            engine.gate.release()
        with pytest.raises(ZeroDivisionError):
            await bad
        assert [answer.result for answer in await asyncio.gather(*first, *good)] == [18, 2]
    assert batches == [[9], [0, 1], [0], [1]]


async def test_an_item_that_is_to_be_alone_has_the_engine_to_itself() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=2, concurrency=2) as batcher:
        tasks = submit(batcher, 1)
        await wait_all_tasks_blocked()
        tasks += submit(batcher, 2)
        await wait_all_tasks_blocked()
        assert engine.batches == [[1], [2]]
        tasks += submit(batcher, 3, 4)
        lone = [asyncio.create_task(batcher.submit(item, time_left_s=60, isolated=True)) for item in (5, 6)]
        await wait_all_tasks_blocked()
        for expected in ([[1], [2]], [[1], [2], [5]], [[1], [2], [5], [6]], [[1], [2], [5], [6], [3, 4]]):
            engine.gate.release()
            await wait_all_tasks_blocked()
            assert engine.batches == expected  # after the first, the second still runs: nothing begins beside it
        engine.gate.release()
        await asyncio.gather(*tasks, *lone)
        tasks = submit(batcher, 7)
        await wait_all_tasks_blocked()
        tasks += submit(batcher, 8)
        await wait_all_tasks_blocked()
        assert engine.batches[-2:] == [[7], [8]]  # two at once again
        for _ in tasks:
            engine.gate.release()
        await asyncio.gather(*tasks)


async def test_it_is_known_how_long_the_engine_has_had_a_batch() -> None:
    engine, clock = GatedEngine(), Clock()
    async with batching(engine, concurrency=2, clock=clock) as batcher:
        assert batcher.in_engine_s == 0
        tasks = submit(batcher, 1)
        await wait_all_tasks_blocked()
        clock.now_s = 7
        tasks += submit(batcher, 2)
        await wait_all_tasks_blocked()
        clock.now_s = 10
        assert batcher.in_engine_s == 10
        for _ in tasks:
            engine.gate.release()
        await asyncio.gather(*tasks)
        assert batcher.in_engine_s == 0


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
        with pytest.raises(ReplicaGone):
            await task


async def test_two_batches_run_at_once_where_the_engine_takes_two() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, concurrency=2) as batcher:
        tasks = submit(batcher, 1, 2, 3)
        await wait_all_tasks_blocked()
        assert engine.batches == [[1], [2]]
        assert batcher.load == 3
        for _ in tasks:
            engine.gate.release()
        await asyncio.gather(*tasks)
        assert batcher.load == 0


async def test_a_client_does_not_wait_behind_streams_and_jobs() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, max_queue_size=50) as batcher:
        crowd = submit(batcher, *range(20), traffic="stream") + submit(batcher, *range(20), traffic="job")
        await wait_all_tasks_blocked()
        (client,) = submit(batcher, 1000)
        await wait_all_tasks_blocked()
        for _ in [*crowd, client]:
            engine.gate.release()
        await asyncio.gather(client, *crowd)
    assert engine.batches[1] == [1000]


async def test_one_isolated_picture_too_many_is_refused_by_the_same_limit() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, max_queue_size=2) as batcher:
        submit(batcher, 0)
        await wait_all_tasks_blocked()
        lone = [asyncio.create_task(batcher.submit(item, time_left_s=60, isolated=True)) for item in (5, 6)]
        await wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match=r"^batcher\.max_queue_size: 2 pictures wait") as refusal:
            await batcher.submit(7, time_left_s=60, isolated=True)
        assert refusal.value.limit == "batcher.max_queue_size"
        for _ in range(3):
            engine.gate.release()
        assert [answer.result for answer in await asyncio.gather(*lone)] == [10, 12]


async def test_a_greedy_tenant_is_told_when_it_must_make_room() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, max_queue_size=4) as batcher:
        submit(batcher, 0)
        await wait_all_tasks_blocked()
        greedy = submit(batcher, 1, 2, 3, 4, tenant="greedy")
        await wait_all_tasks_blocked()
        (modest,) = submit(batcher, 9, tenant="modest")
        with pytest.raises(Overloaded, match=r"^batcher\.max_queue_size: .* this tenant's") as refusal:
            await greedy[-1]
        assert refusal.value.limit == "batcher.max_queue_size"
        for _ in range(5):
            engine.gate.release()
        assert (await modest).result == 18
        assert batcher.drops["interactive"] == {"overloaded": 1}


class TimedEngine:
    """Takes a time of the virtual clock that depends on the batch's size."""

    def __init__(self, clock: Clock, batch_s: Callable[[int], float]) -> None:
        self.sizes: list[int] = []
        self._clock = clock
        self._batch_s = batch_s

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.sizes.append(len(items))
        self._clock.now_s += self._batch_s(len(items))
        return items


async def sizes(batch_s: Callable[[int], float], count: int = 200) -> list[int]:
    """The batches of a burst."""
    clock = Clock()
    engine = TimedEngine(clock, batch_s)
    async with batching(engine, max_batch_size=16, max_queue_size=count, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(count), time_left_s=1e6))
    return engine.sizes


async def test_batches_grow_to_the_largest_where_they_cost_no_more() -> None:
    assert (await sizes(lambda size: 0.2))[:6] == [1, 2, 4, 8, 16, 16]


async def test_batches_stay_small_where_they_gain_nothing() -> None:
    assert (await sizes(lambda size: 0.02 * size))[:9] == [1, 2, 2, 2, 2, 1, 1, 1, 1]


async def test_one_slow_batch_does_not_tell_against_its_size() -> None:
    slow = iter([0.2, 0.2, 0.5])
    assert (await sizes(lambda size: next(slow, 0.2)))[:6] == [1, 2, 4, 4, 8, 16]


async def test_batches_stop_growing_where_the_gain_ends() -> None:
    assert set((await sizes(lambda size: 0.1 * max(1, size / 4)))[7:-1]) == {4}


async def test_demand_counts_the_engines_time_and_what_was_dropped() -> None:
    """Two seconds of work and two pictures more than fit, in ten seconds."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.5 * size)
    async with batching(engine, max_batch_size=1, max_queue_size=4, items_per_s=2, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(6), time_left_s=1e6), return_exceptions=True)
        clock.now_s = 10
        assert batcher.take_demand() == pytest.approx(0.3)
        clock.now_s = 20
        assert batcher.take_demand() == 0


async def test_small_batches_are_no_more_demand_than_large_ones() -> None:
    """An engine of 40 pictures a second that is never idle, with half of them."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.2)
    async with batching(engine, max_batch_size=8, items_per_s=40, clock=clock) as batcher:
        for _ in range(10):
            await asyncio.gather(*submit(batcher, *range(4), time_left_s=1e6))
        assert max(engine.sizes) == 4
        assert batcher.take_demand() == pytest.approx(40 / 40 / clock.now_s)
        assert batcher.items_per_s == 40


async def test_an_engine_that_became_faster_is_in_no_more_demand_than_it_works() -> None:
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.1)
    async with batching(engine, items_per_s=1, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, 1, time_left_s=1e6))
        clock.now_s = 1
        assert batcher.take_demand() == pytest.approx(0.1)


@pytest.mark.parametrize(("given_up", "counted"), [(0, 0), (1, 1), (5, 2)])
async def test_frames_that_were_given_up_are_demand_as_far_as_they_waited_for_the_engine(
    given_up: int, counted: int
) -> None:
    """One that waited for two batches: five frames came meanwhile, and the engine would have taken two of them."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 1)
    async with batching(engine, max_batch_size=1, items_per_s=1, clock=clock) as batcher:
        ahead = submit(batcher, 1, 2, time_left_s=1e6)
        frame = asyncio.create_task(batcher.submit(3, time_left_s=1e6, given_up=given_up))
        await asyncio.gather(*ahead, frame)
        clock.now_s = 10
        assert batcher.take_demand() == pytest.approx((3 + counted) / 10)


async def test_what_the_next_batches_take_is_no_backlog() -> None:
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


async def test_an_engine_that_never_pauses_is_in_full_demand_however_many_batches_it_takes_at_once() -> None:
    """Two at once take twice as long as one: half a picture a second all the same."""
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
        assert batcher.take_demand() == pytest.approx(1)
        clock.now_s = 8
        assert batcher.take_demand() == 0


async def test_an_engine_that_fails_is_in_demand_too() -> None:
    clock = Clock()

    async def fail(items: list[int]) -> Sequence[int]:
        clock.now_s += 2
        raise ValueError

    async with batching(fail, max_batch_size=1, items_per_s=0.5, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, 1, 2, time_left_s=1e6), return_exceptions=True)
        clock.now_s = 10
        assert batcher.take_demand() == pytest.approx(0.4)


async def test_what_an_engine_can_do_is_seen_where_it_has_as_much_to_do_as_it_can() -> None:
    """It was thought to do 100 pictures a second, and does 40."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.2)
    async with batching(engine, max_batch_size=8, max_queue_size=400, items_per_s=100, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(400), time_left_s=1e6))
        assert batcher.items_per_s == pytest.approx(40, rel=0.01)


async def test_a_larger_batch_is_tried_again_after_a_while() -> None:
    """The engine gains nothing from batches at first, much later on."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.1 * size if clock.now_s < 20 else 0.1)
    async with batching(engine, max_batch_size=4, max_queue_size=1000, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(1000), time_left_s=1e6))
    assert set(engine.sizes[5:200]) == {1}
    assert set(engine.sizes[-100:-1]) == {4}

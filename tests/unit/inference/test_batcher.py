from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from anyio import wait_all_tasks_blocked

from serve_app.errors import DeadlineExceeded, Overloaded, ReplicaGone
from tests.support.batching import GatedEngine, TimedEngine, batching, submit
from tests.support.clock import Clock

pytestmark = pytest.mark.anyio


async def test_items_that_arrive_while_the_engine_is_busy_form_the_next_batch() -> None:
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


async def test_a_batch_never_exceeds_the_maximum_and_the_order_is_kept() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=3) as batcher:
        tasks = submit(batcher, *range(8))
        for _ in range(4):
            engine.gate.release()
        await asyncio.gather(*tasks)
    assert engine.batches == [[0], [1, 2], [3, 4, 5], [6, 7]]  # the size grows while larger batches are faster per item


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


async def test_cancelled_items_never_reach_the_engine() -> None:
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


async def test_cancelled_items_free_space_in_a_full_queue() -> None:
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


async def test_expired_items_never_reach_the_engine() -> None:
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


async def test_a_failed_batch_does_not_affect_the_next_one() -> None:
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


async def test_items_of_a_failed_batch_are_retried_alone_and_only_the_bad_one_fails() -> None:
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


async def test_an_isolated_item_runs_alone_in_the_engine() -> None:
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
            # When batch [1] ends, batch [2] is still running, so the isolated item 5 does not start yet.
            assert engine.batches == expected
        engine.gate.release()
        await asyncio.gather(*tasks, *lone)
        tasks = submit(batcher, 7)
        await wait_all_tasks_blocked()
        tasks += submit(batcher, 8)
        await wait_all_tasks_blocked()
        assert engine.batches[-2:] == [[7], [8]]  # after the isolated items, two batches run at once again
        for _ in tasks:
            engine.gate.release()
        await asyncio.gather(*tasks)


async def test_in_engine_s_is_the_time_of_the_oldest_running_batch() -> None:
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


async def test_closing_fails_waiting_and_running_items() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1) as batcher:
        tasks = submit(batcher, 1, 2)
        await wait_all_tasks_blocked()
    for task in tasks:
        with pytest.raises(ReplicaGone):
            await task


async def test_two_batches_run_at_once_if_the_engine_allows_two() -> None:
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


async def test_a_request_does_not_wait_behind_streams_and_jobs() -> None:
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


async def test_isolated_items_are_subject_to_the_same_limit() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch_size=1, max_queue_size=2) as batcher:
        submit(batcher, 0)
        await wait_all_tasks_blocked()
        lone = [asyncio.create_task(batcher.submit(item, time_left_s=60, isolated=True)) for item in (5, 6)]
        await wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match=r"^batcher\.max_queue_size: 2 images wait") as refusal:
            await batcher.submit(7, time_left_s=60, isolated=True)
        assert refusal.value.limit == "batcher.max_queue_size"
        for _ in range(3):
            engine.gate.release()
        assert [answer.result for answer in await asyncio.gather(*lone)] == [10, 12]


async def test_a_displaced_item_of_a_greedy_tenant_fails_with_overloaded() -> None:
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


async def test_while_clients_send_images_the_batches_of_jobs_are_short() -> None:
    """A client's image waits for the batch before it. So a batch takes 25 ms of this engine, which is two images."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.004 + 0.01 * size)  # larger batches are always faster per image
    async with batching(engine, max_batch_size=8, max_queue_size=64, items_per_s=100, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(40), traffic="job"))
        assert max(engine.sizes) == 8
        engine.sizes.clear()
        await asyncio.gather(*submit(batcher, 1), *submit(batcher, *range(19), traffic="job"))
        assert engine.sizes == [2] * 10
        engine.sizes.clear()
        await asyncio.gather(*submit(batcher, *range(16)), *submit(batcher, *range(8), traffic="job"))
        assert engine.sizes[0] == 8  # many clients together still fill a batch
        clock.now_s += 1
        engine.sizes.clear()
        await asyncio.gather(*submit(batcher, *range(16), traffic="job"))
        assert engine.sizes == [8, 8]


async def test_batches_stay_full_if_smaller_ones_would_hardly_be_faster() -> None:
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.08)
    async with batching(engine, max_batch_size=8, max_queue_size=64, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(40), traffic="job"))
        engine.sizes.clear()
        await asyncio.gather(*submit(batcher, 1), *submit(batcher, *range(15), traffic="job"))
        assert engine.sizes == [8, 8]


async def test_without_batches_jobs_leave_a_place_in_the_engine_free_for_clients() -> None:
    clock, engine = Clock(), GatedEngine()
    async with batching(engine, max_batch_size=1, concurrency=2, max_queue_size=64, clock=clock) as batcher:
        submit(batcher, *range(9), traffic="job")
        await wait_all_tasks_blocked()
        assert engine.batches == [[0], [1]]  # no client sends images, so the job has both places
        client = submit(batcher, 100)
        engine.gate.release()
        await wait_all_tasks_blocked()
        assert engine.batches[2:] == [[100]]
        for _ in range(3):
            engine.gate.release()
            await wait_all_tasks_blocked()
        assert (await client[0]).result == 200
        assert engine.batches[3:] == [[2], [3]]  # one at a time: of three ends, two are of the job
        client = submit(batcher, 101)
        await wait_all_tasks_blocked()
        assert engine.batches[5:] == [[101]]  # at once, beside the job's image
        clock.now_s += 1
        submit(batcher, 9, traffic="job")
        for _ in range(8):
            engine.gate.release()
            await wait_all_tasks_blocked()
        assert len(engine.batches) == 12  # all ten images of the job, and two of clients

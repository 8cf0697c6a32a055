"""The batch size adapts to what the engine gains from batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.batching import TimedEngine, batching, submit
from tests.support.clock import Clock

pytestmark = pytest.mark.anyio


async def sizes(batch_s: Callable[[int], float], count: int = 200) -> list[int]:
    """Return the sizes of the batches in which a burst of items is processed."""
    clock = Clock()
    engine = TimedEngine(clock, batch_s)
    async with batching(engine, max_batch_size=16, max_queue_size=count, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(count), time_left_s=1e6))
    return engine.sizes


async def test_batches_grow_to_the_maximum_if_they_cost_no_more() -> None:
    assert (await sizes(lambda size: 0.2))[:6] == [1, 2, 4, 8, 16, 16]


async def test_batches_stay_small_if_they_gain_nothing() -> None:
    assert (await sizes(lambda size: 0.02 * size))[:9] == [1, 2, 2, 2, 2, 1, 1, 1, 1]


async def test_a_single_slow_batch_does_not_reject_its_size() -> None:
    slow = iter([0.2, 0.2, 0.5])
    assert (await sizes(lambda size: next(slow, 0.2)))[:6] == [1, 2, 4, 4, 8, 16]


async def test_batches_stop_growing_when_the_gain_ends() -> None:
    assert set((await sizes(lambda size: 0.1 * max(1, size / 4)))[7:-1]) == {4}


async def test_a_larger_batch_is_tried_again_after_a_while() -> None:
    """For 20 s, the engine gains nothing from batches. After that, a batch is as fast as a single item."""
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.1 * size if clock.now_s < 20 else 0.1)
    async with batching(engine, max_batch_size=4, max_queue_size=1000, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, *range(1000), time_left_s=1e6))
    assert set(engine.sizes[5:200]) == {1}
    assert set(engine.sizes[-100:-1]) == {4}

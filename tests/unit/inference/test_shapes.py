"""Items of several shapes in one batcher."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from scripts.benchmark.simulation import SHAPES, SenderGroup, VirtualLoop, simulate
from serve_app.inference.batcher import Batched, Batcher
from serve_app.types import Traffic
from tests.support.batching import batching
from tests.support.clock import Clock

BATCH_S = 0.2


@pytest.mark.parametrize("seed", range(10))
def test_a_batch_never_mixes_shapes(seed: int) -> None:
    """Items arrive at random, some senders give up early, and the engine runs up to two batches at once."""
    rng, batches = random.Random(seed), list[list[str]]()

    async def engine(shapes: list[str]) -> Sequence[str]:
        batches.append(shapes)
        await asyncio.sleep(rng.uniform(0.1, 0.3))
        return shapes

    async def send(batcher: Batcher[str, str]) -> str:
        shape, traffics = rng.choice(["square", "square", "wide", "tall"]), list[Traffic](["interactive", "stream"])
        await asyncio.sleep(rng.uniform(0, 10))
        async with asyncio.timeout(rng.choice([0.5, 100])):
            batched = await batcher.submit(
                shape, time_left_s=60, traffic=rng.choice(traffics), tenant=rng.choice("aab"), shape=shape
            )
        assert batched.result == shape
        return shape

    async def run() -> list[str | BaseException]:
        batcher = Batcher(
            engine, max_batch_size=8, max_queue_size=400, weights={"interactive": 8, "stream": 4}, items_per_s=10,
            concurrency=2, clock_s=asyncio.get_running_loop().time,
        )  # fmt: skip
        return await asyncio.gather(*(send(batcher) for _ in range(400)), return_exceptions=True)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        results = runner.run(run())
    assert {type(result) for result in results} == {str, TimeoutError}
    assert all(len(set(batch)) == 1 for batch in batches)
    assert max(map(len, batches)) > 4


@pytest.mark.parametrize("others", [1, 2, 4, 7])
def test_an_item_of_a_rare_shape_waits_for_at_most_one_batch_of_each_other_shape(others: int) -> None:
    crowds = [
        SenderGroup("interactive", f"tenant {number}", senders=16, shape=f"shape {number}") for number in range(others)
    ]
    rare = SenderGroup("interactive", "rare", senders=1, pause_s=1.0, shape="rare")
    seen = simulate([*crowds, rare], batch_s=BATCH_S, max_batch_size=8, duration_s=120)
    assert len(seen["rare"].batches) > 50
    assert max(seen["rare"].batches) <= others


def test_a_tenant_gains_nothing_by_the_shape_of_its_images() -> None:
    """Six tenants always have items waiting. Each gets as much of the engine's time as if all images were squares."""
    busy = [crowd for crowd in SHAPES if not crowd.pause_s]
    squares = [SenderGroup(crowd.traffic, crowd.tenant, crowd.senders) for crowd in busy]
    for crowds in (busy, squares):
        seen = simulate(crowds, batch_s=BATCH_S, max_batch_size=8, duration_s=120)
        assert len(seen) == 6
        for waits in seen.values():
            assert waits.engine_s == pytest.approx(120 / 6, rel=0.03)


def test_kinds_of_traffic_share_the_engine_by_weight_whatever_their_shapes() -> None:
    crowds = [
        SenderGroup("interactive", "client", senders=64, shape="wide", cost=0.6),
        SenderGroup("job", "job", senders=64),
    ]
    seen = simulate(crowds, batch_s=BATCH_S, max_batch_size=8, duration_s=360)
    assert seen["client"].engine_s / seen["job"].engine_s == pytest.approx(8, rel=0.05)


@pytest.mark.anyio
async def test_each_shape_has_its_own_batch_size() -> None:
    """A batch of small items is as fast as one small item. Large items gain nothing from batches."""
    clock, sizes = Clock(), dict[str, list[int]](small=[], large=[])

    async def engine(items: list[int]) -> Sequence[int]:
        sizes["large" if items[0] else "small"].append(len(items))
        clock.now_s += 0.1 * len(items) if items[0] else 0.1
        return items

    async with batching(engine, max_batch_size=8, max_queue_size=200, clock=clock) as batcher:

        def submit(item: int) -> asyncio.Task[Batched[int]]:
            return asyncio.create_task(batcher.submit(item, time_left_s=1e6, tenant=str(item), shape=item))

        await asyncio.gather(*(submit(number % 2) for number in range(200)))
    assert sizes["small"][:5] == [1, 2, 4, 8, 8]
    assert sizes["large"][:9] == [1, 2, 2, 2, 2, 1, 1, 1, 1]

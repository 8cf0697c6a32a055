"""Engines and other helpers for tests of the batcher. The tests control how long each batch takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from serve_app.inference.batcher import Batched, Batcher
from serve_app.types import Traffic
from tests.support.clock import Clock


class GatedEngine:
    """An engine for batches of numbers. It records each batch, and multiplies each number by two.

    Each release of ``gate`` lets one batch finish.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Semaphore(0)

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        await self.gate.acquire()
        return [2 * item for item in items]


@asynccontextmanager
async def batching(
    engine: Callable[[list[int]], Awaitable[Sequence[int]]],
    *,
    max_batch_size: int = 4,
    max_queue_size: int = 8,
    items_per_s: float = 1.0,
    concurrency: int = 1,
    clock: Clock | None = None,
) -> AsyncIterator[Batcher[int, int]]:
    """Run a batcher with this engine, and close it at the end."""
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
    """Submit each item in its own task, and return the tasks."""
    return [
        asyncio.create_task(batcher.submit(item, time_left_s=time_left_s, traffic=traffic, tenant=tenant))
        for item in items
    ]


class TimedEngine:
    """An engine that advances the test's clock by ``batch_s(size)`` for each batch."""

    def __init__(self, clock: Clock, batch_s: Callable[[int], float]) -> None:
        self.sizes: list[int] = []
        self._clock = clock
        self._batch_s = batch_s

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.sizes.append(len(items))
        self._clock.now_s += self._batch_s(len(items))
        return items

"""Measure the batcher with an engine, in one process without Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from scripts.gpu_day.models import frames, two_shapes
from scripts.gpu_day.stage import Plan, Record
from scripts.gpu_day.usage import watched
from serve_app.config import BatcherArgs, DetectorArgs, ModelArgs
from serve_app.inference.model_runner import EngineInput, ModelRunner
from serve_app.models.engines import Engine
from serve_app.types import InputShape

_MEASURED_S = 1.5
_TIME_LEFT_S = 60.0


def measure(plan: Plan, record: Record, model: ModelArgs, engine: Engine, batch_s: float) -> None:
    """Add the throughput and the latencies for each of two shapes, and for a mixture of both.

    ``batch_s``: how long the engine takes for a round of full batches.
    """
    asyncio.run(_measure(plan, record, model, engine, batch_s))


async def _measure(plan: Plan, record: Record, model: ModelArgs, engine: Engine, batch_s: float) -> None:
    batcher = BatcherArgs(max_batch_size=plan.batch_sizes[-1], max_queue_size=1024)
    runner = ModelRunner(engine, DetectorArgs(model=model, batcher=batcher), batch_s, on_batch=lambda _: None)
    try:
        shapes = two_shapes(runner.info.shapes)
        for mixture in [*([shape] for shape in shapes), *([shapes] if len(shapes) > 1 else [])]:
            for senders in (1, 2) if plan.is_small else (1, 8, 32, 64, 128):
                with watched() as used:
                    seen = await _load(runner, mixture, senders, plan.duration_s(_MEASURED_S))
                names = [str(shape) for shape in mixture]
                record.add(part="batcher", shapes=names, senders=senders, **seen, **used)
    finally:
        await runner.close()


async def _load(
    runner: ModelRunner, shapes: Sequence[InputShape], senders: int, duration_s: float
) -> dict[str, float | None]:
    """Let each sender keep one image in flight. The senders take turns with the shapes."""
    latencies_s: list[float] = []
    sizes: list[int] = []
    pixels = {shape: frames(shape, 1)[0] for shape in shapes}
    started_at_s, cpu_s = time.monotonic(), time.process_time()

    async def send(number: int) -> None:
        shape = shapes[number % len(shapes)]
        item = EngineInput(pixels[shape], np.zeros(1, np.uint8), runner.info.defaults)
        cost = runner.cost(shape)
        while not sizes or time.monotonic() - started_at_s < duration_s:  # at least once
            sent_at_s = time.monotonic()
            batched = await runner.batcher.submit(
                item, time_left_s=_TIME_LEFT_S, tenant=str(number), shape=shape, cost=cost
            )
            latencies_s.append(time.monotonic() - sent_at_s)
            sizes.append(batched.batch_size)

    await asyncio.gather(*(send(number) for number in range(senders)))
    took_s = time.monotonic() - started_at_s
    return {
        "images_per_s": round(len(sizes) / took_s, 1),
        "mean_batch_size": round(float(np.mean(sizes)), 2),
        "p50_ms": round(float(np.percentile(latencies_s, 50)) * 1e3, 2),
        "p99_ms": round(float(np.percentile(latencies_s, 99)) * 1e3, 2),
        "cpu_ms_per_image": round((time.process_time() - cpu_s) / len(sizes) * 1e3, 3),
    }

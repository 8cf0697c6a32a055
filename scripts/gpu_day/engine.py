"""Measure a bare engine at two shapes and several batch sizes, and say where its time goes."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from scripts.gpu_day.models import frames, two_shapes
from scripts.gpu_day.stage import Plan, Record
from scripts.gpu_day.usage import watched
from serve_app.models.engines import Engine
from serve_app.types import Pixels

_MEASURED_S = 1.0
_PROFILED_CALLS = 10
_SHOWN = 15


def measure(plan: Plan, record: Record, engine: Engine) -> None:
    """Add the throughput of an engine at two shapes, for each batch size, and a profile of the largest batches."""
    for shape in two_shapes(engine.info.shapes):
        for size in plan.batch_sizes:
            with watched() as used:
                seen = throughput(engine, frames(shape, size), plan.duration_s(_MEASURED_S))
            record.add(part="engine", shape=str(shape), batch_size=size, **seen, **used)
        record.add(part="profile", shape=str(shape), **profiled(engine, frames(shape, plan.batch_sizes[-1])))


def throughput(engine: Engine, batch: list[Pixels], duration_s: float) -> dict[str, float]:
    """Return the images per second of calls in as many threads as the engine allows, and the latency of one call."""
    engine.infer(batch)
    began_at_s = time.perf_counter()
    engine.infer(batch)
    latency_s = time.perf_counter() - began_at_s
    images = [0] * engine.concurrency
    started_at_s, cpu_s = time.perf_counter(), time.process_time()

    def infer(number: int) -> None:
        while not images[number] or time.perf_counter() - started_at_s < duration_s:  # at least once
            engine.infer(batch, alone=False)
            images[number] += len(batch)

    threads = [threading.Thread(target=infer, args=(number,)) for number in range(engine.concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s, count = time.perf_counter() - started_at_s, sum(images)
    return {
        "images_per_s": round(count / took_s, 1),
        "latency_ms": round(latency_s * 1e3, 2),
        "cpu_ms_per_image": round((time.process_time() - cpu_s) / count * 1e3, 3),
    }


def profiled(engine: Engine, batch: list[Pixels]) -> dict[str, Any]:
    """Return the operations that take most time, on the GPU if there is one, in milliseconds per call."""
    on_gpu = bool(torch.cuda.is_available())
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    began_at_s = time.perf_counter()
    with profile(activities=activities) as profiler:
        for _ in range(_PROFILED_CALLS if on_gpu else 1):
            engine.infer(batch)
    calls = _PROFILED_CALLS if on_gpu else 1
    took_ms = (time.perf_counter() - began_at_s) * 1e3 / calls
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    operations = sorted(profiler.key_averages(), key=lambda one: -float(getattr(one, key)))
    return {
        "batch_size": len(batch),
        "profiled_ms_per_call": round(took_ms, 2),
        "operations_ms": {one.key[:80]: round(getattr(one, key) / 1e3 / calls, 3) for one in operations[:_SHOWN]},
    }

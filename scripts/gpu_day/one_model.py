"""Stages ``trained`` and ``untrained``: load a model once, compare its results, and measure its engine and its batcher.

On a GPU, loading takes long, because a CUDA graph is recorded for each shape and batch size.
"""

from __future__ import annotations

import time

import torch

from scripts.gpu_day import batcher, engine, parity
from scripts.gpu_day.models import frames, settings
from scripts.gpu_day.stage import Plan, Record
from serve_app.models.load import load


def run(plan: Plan, record: Record) -> None:
    """Add the start of the model, and the results of the three parts."""
    args = settings(plan)[plan.stage]
    began_at_s = time.monotonic()
    loaded = load(args, has_gpu=plan.has_gpu, max_batch_size=plan.batch_sizes[-1])
    info = loaded.info
    record.add(
        part="start", model=info.name, load_s=round(time.monotonic() - began_at_s, 2), precision=info.precision,
        has_graphs=loaded.concurrency > 1, shapes=[str(shape) for shape in info.shapes],
        gpu_memory_mib=round(torch.cuda.memory_reserved() / 2**20) if plan.has_gpu else None,
    )  # fmt: skip
    parity.compare(plan, record, args, loaded)  # first, because the stage's time may not be enough for everything
    engine.measure(plan, record, loaded)
    began_at_s = time.monotonic()
    loaded.infer(frames(info.input_shape, plan.batch_sizes[-1]))
    batcher.measure(plan, record, args, loaded, time.monotonic() - began_at_s)

"""Stage: measure the TensorRT engine, if TensorRT is installed."""

from __future__ import annotations

import importlib.util
import time

from scripts.gpu_day.engine import measure
from scripts.gpu_day.models import settings
from scripts.gpu_day.stage import Plan, Record
from serve_app.models.load import load


def run(plan: Plan, record: Record) -> None:
    """Add the start of the first model that is a checkpoint, which builds the engine, and its throughput."""
    if importlib.util.find_spec("tensorrt") is None or not plan.has_gpu:
        record.add(skipped="there is no GPU" if not plan.has_gpu else "tensorrt is not installed")
        return
    # TensorRT reads only checkpoints, which the embedded model is not.
    name, args = next(one for one in settings(plan).items() if one[1].weights.suffix == ".pt")
    began_at_s = time.monotonic()
    args = args.model_copy(update={"engine": "tensorrt"})
    engine = load(args, has_gpu=True, max_batch_size=plan.batch_sizes[-1])
    record.add(model=name, load_s=round(time.monotonic() - began_at_s, 1), precision=engine.info.precision)
    measure(plan, record, engine)

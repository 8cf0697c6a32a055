"""A running model, and changes of its settings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.config import BatcherArgs, DetectArgs, DetectorArgs
from serve_app.inference.model_runner import EngineInput, ModelRunner
from serve_app.types import DetectOptions, DetectReply, EngineInfo, InputShape, Pixels, Traffic

pytestmark = pytest.mark.anyio

OPTIONS = DetectOptions(confidence=0.5, iou=0.7, max_detections=300)


class HeldEngine:
    """An engine that waits until a test releases it, and then finds nothing."""

    concurrency = 1
    takes_batches = True
    info = EngineInfo("held", "v1", "held", ("dog",), InputShape.square(32), end_to_end=True)

    def __init__(self) -> None:
        self.released, self.entered = threading.Event(), threading.Event()

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[NDArray[np.float32]]:
        self.entered.set()
        assert self.released.wait(30)
        return [np.empty((0, 6), np.float32) for _ in frames]


def served(engine: HeldEngine, batches: list[int] | None = None) -> ModelRunner:
    def observe(replies: list[DetectReply]) -> None:
        if batches is not None:
            batches.append(len(replies))

    return ModelRunner(engine, DetectorArgs(), 0.001, observe)


def item() -> EngineInput:
    return EngineInput(np.zeros((32, 32, 3), np.uint8), np.zeros(1, np.uint8), OPTIONS)


async def test_accepted_items_are_answered_before_a_model_is_freed() -> None:
    engine = HeldEngine()
    batches: list[int] = []
    model = served(engine, batches)
    waiting = [asyncio.create_task(model.batcher.submit(item(), time_left_s=30)) for _ in range(3)]
    await asyncio.to_thread(engine.entered.wait, 30)
    draining = asyncio.create_task(model.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    engine.released.set()
    await draining
    assert all(task.done() and len(task.result().result.detections) == 0 for task in waiting)
    assert sum(batches) == 3
    assert not hasattr(model, "_engine")


async def test_other_thresholds_make_another_version_of_the_same_model() -> None:
    model = served(HeldEngine())
    before = model.info
    model.apply_settings(DetectArgs(confidence=0.9), BatcherArgs())
    assert (model.info.name, model.info.defaults.confidence) == (before.name, 0.9)
    assert model.info.version != before.version
    model.apply_settings(DetectArgs(), BatcherArgs())
    assert model.info == before
    await model.close()


async def test_changed_weights_apply_from_the_next_batch() -> None:
    engine = HeldEngine()
    model = served(engine)
    order: list[str] = []

    async def submit(traffic: Traffic) -> None:
        await model.batcher.submit(item(), time_left_s=30, traffic=traffic)
        order.append(traffic)

    first = asyncio.create_task(submit("interactive"))
    await asyncio.to_thread(engine.entered.wait, 30)
    model.apply_settings(DetectArgs(), BatcherArgs(interactive_weight=1, job_weight=1000))
    kinds: list[Traffic] = ["interactive", "job"]
    rest = [asyncio.create_task(submit(traffic)) for traffic in kinds for _ in range(4)]
    await asyncio.sleep(0)
    engine.released.set()
    await asyncio.gather(first, *rest)
    assert order[-3:] == ["interactive"] * 3
    await model.close()

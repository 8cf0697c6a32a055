"""A running model, and changes of its settings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from serve_app.config import BatcherArgs, DetectArgs, DetectorArgs
from serve_app.inference.model_runner import EngineInput, ModelRunner
from serve_app.models.engines import RawOutput
from serve_app.models.engines.preparation import Preparation
from serve_app.types import DetectOptions, DetectParams, DetectReply, EngineInfo, InputShape, Pixels, Traffic
from tests.support.clock import Clock

pytestmark = pytest.mark.anyio

OPTIONS = DetectOptions(confidence=0.5, iou=0.7, max_detections=300)


class HeldEngine:
    """An engine that waits until a test releases it, and then finds nothing."""

    concurrency = 1
    takes_batches = True
    preparation: Preparation | None = None
    info = EngineInfo("held", "v1", "held", ("dog",), InputShape.square(32), end_to_end=True)

    def __init__(self) -> None:
        self.released, self.entered = threading.Event(), threading.Event()

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[RawOutput]:
        self.entered.set()
        assert self.released.wait(30)
        return [(np.empty((0, 6), np.float32),) for _ in frames]


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


class RecordingEngine(HeldEngine):
    """An engine for inputs of several shapes, which records the shapes of each batch."""

    info = replace(HeldEngine.info, input_shape=InputShape(64, 64), rectangles=(InputShape(32, 64), InputShape(48, 64)))

    def __init__(self) -> None:
        super().__init__()
        self.released.set()
        self.batches: set[tuple[tuple[int, ...], int, bool]] = set()

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[RawOutput]:
        assert len({frame.shape for frame in frames}) == 1
        self.batches.add((frames[0].shape, len(frames), alone))
        return super().infer(frames, alone=alone)


async def test_a_model_is_warmed_up_with_a_full_batch_and_a_lone_frame_of_each_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = RecordingEngine()
    monkeypatch.setattr("serve_app.models.load.load", lambda *args, **kwargs: engine)
    model = await ModelRunner.load(
        DetectorArgs(batcher=BatcherArgs(max_batch_size=4)), has_gpu=False, on_batch=lambda replies: None
    )
    await model.close()
    for shape in engine.info.shapes:
        assert (shape.array, 4, False) in engine.batches
        assert {(shape.array, 1, True), (shape.array, 4, True)} & engine.batches


async def test_rectangles_that_an_engine_prepares_by_need_are_not_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = RecordingEngine()
    engine.preparation = Preparation()
    monkeypatch.setattr("serve_app.models.load.load", lambda *args, **kwargs: engine)
    model = await ModelRunner.load(DetectorArgs(), has_gpu=False, on_batch=lambda replies: None)
    await model.close()
    assert {shape for shape, _, _ in engine.batches} == {engine.info.input_shape.array}


class PreparingEngine(HeldEngine):
    """An engine that prepares a shape until a test releases it, and then computes until a test releases it."""

    def __init__(self, preparation: Preparation) -> None:
        super().__init__()
        self.preparation = preparation
        self.prepared, self.preparing = threading.Event(), threading.Event()

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[RawOutput]:
        assert self.preparation is not None
        with self.preparation:
            self.preparing.set()
            assert self.prepared.wait(30)
        return super().infer(frames, alone=alone)


async def test_an_engine_that_prepares_a_shape_for_long_is_not_hung() -> None:
    clock = Clock()
    engine = PreparingEngine(Preparation(clock))
    model = served(engine)
    model.batcher._clock_s = clock
    answer = asyncio.create_task(model.batcher.submit(item(), time_left_s=1000))
    await asyncio.to_thread(engine.preparing.wait, 30)
    clock.now_s = 179
    assert model.batcher.in_engine_s == 179
    assert not model.is_hung
    engine.prepared.set()
    await asyncio.to_thread(engine.entered.wait, 30)
    clock.now_s = 188
    assert not model.is_hung
    clock.now_s = 190
    assert model.is_hung
    engine.released.set()
    await answer
    assert not model.is_hung
    await model.close()


async def test_an_engine_whose_preparation_does_not_end_is_hung() -> None:
    clock = Clock()
    preparation = Preparation(clock)
    model = served(PreparingEngine(preparation))
    with preparation:
        clock.now_s = 180
        assert not model.is_hung
        clock.now_s = 181
        assert model.is_hung
    assert not model.is_hung
    await model.close()


async def test_the_cost_of_a_frame_is_its_share_of_the_pixels_of_the_largest_shape() -> None:
    model = served(RecordingEngine())
    assert [model.cost(shape) for shape in model.info.shapes] == [0.5, 0.75, 1]
    await model.close()


async def test_a_frame_whose_shape_the_model_does_not_take_is_refused() -> None:
    model = served(RecordingEngine())
    with pytest.raises(ValueError, match="held takes no input of the shape 64x32; its shapes are: 32x64, 48x64, 64x64"):
        model.cost(InputShape(64, 32))
    await model.close()


async def test_a_model_that_classifies_images_returns_five_classes_by_default() -> None:
    """The thresholds in the settings are for objects. A request can still set its own."""
    engine = HeldEngine()
    engine.info = replace(HeldEngine.info, task="classify")
    model = served(engine)
    assert (model.info.defaults.confidence, model.info.defaults.max_detections) == (0.0, 5)
    assert (model.info.task, model.info.fitting) == ("classify", "crop")
    model.apply_settings(DetectArgs(confidence=0.9), BatcherArgs())
    assert DetectParams().to_options(model.info).confidence == 0.0
    assert DetectParams(confidence=0.4, max_detections=9).to_options(model.info).max_detections == 9
    await model.close()

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from serve_app.config import DetectorArgs
from serve_app.deployments import detector as detector_module
from serve_app.deployments.detector import Detector
from serve_app.deployments.detector_client import DetectorClient
from serve_app.errors import ModelChanged, ModelError
from serve_app.inference.batcher import Batched
from serve_app.inference.model_runner import EngineInput
from serve_app.ipc.frame_pool import SlotReader
from serve_app.types import DetectorState, DetectReply, DetectRequest, FrameBytes, InputShape
from tests.support.fake_replicas import OPTIONS, FakeHandle, ask
from tests.support.instruments import FakeInstrument, Record

pytestmark = pytest.mark.anyio


def detector(monkeypatch: pytest.MonkeyPatch, **model: Any) -> Detector:
    class DetectorWithoutCleanup(Detector):
        def __del__(self) -> None:  # type: ignore[override]  # only Serve can await the real one
            pass

    monkeypatch.setattr(ray, "get_gpu_ids", list)
    return DetectorWithoutCleanup(DetectorArgs(model={"engine": "null"} | model), job_scaling_share=0.5)


async def change(replica: Detector, user_config: Any) -> DetectorState:
    """Apply a ``user_config``, wait until the change is done, and return the new state."""
    await replica.reconfigure(user_config, None)
    while (state := await replica.state()).is_changing:
        await asyncio.sleep(0.01)
    return state


@pytest.mark.parametrize(
    ("is_elsewhere", "crossings"), [(False, []), (True, [("crossings", 1, {"traffic": "stream"})])]
)
async def test_a_frame_from_another_node_is_counted_as_a_crossing(
    is_elsewhere: bool, crossings: list[Record], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    records: list[Record] = []
    monkeypatch.setattr(detector_module, "RayInstrument", lambda metric: FakeInstrument(metric, records))
    replica = detector(monkeypatch, image_size_px=64)
    await replica.reconfigure(None, None)
    if is_elsewhere:
        replica._reader = SlotReader(tmp_path)
    handle = FakeHandle()
    handle.info = (await replica.state()).model
    handle.detect = SimpleNamespace(remote=replica.detect)
    client = DetectorClient(handle, slots=1, traffic="stream")
    await ask(client, np.zeros((64, 64, 3), np.uint8))
    assert [record for record in records if record[0] == "crossings"] == crossings
    assert ("images", 1, {"traffic": "stream"}) in records
    client.close()
    await replica._rollout.close()


async def test_a_new_rank_alone_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = detector(monkeypatch)
    await change(replica, {"detect": {"confidence": 0.3}})
    await replica.reconfigure({"detect": {"confidence": 0.3}}, 1)
    assert not (await replica.state()).is_changing


async def test_a_detector_that_cannot_load_its_first_model_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError):
        await detector(monkeypatch, engine="openvino", weights="nowhere.onnx").reconfigure(None, None)


async def test_a_frame_for_the_previous_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = detector(monkeypatch)
    version = (await change(replica, None)).model.version
    frame = FrameBytes(bytes(640 * 640 * 3), InputShape.square(640))
    request = DetectRequest(frame, OPTIONS, 10, version, "interactive", "")
    assert isinstance(await replica.detect(request), DetectReply)
    await change(replica, {"model": {"image_size_px": 320}})
    assert isinstance(await replica.detect(request), ModelChanged)


async def test_a_frame_of_a_shape_that_the_model_does_not_take_never_reaches_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = detector(monkeypatch)
    version = (await change(replica, None)).model.version
    frame = FrameBytes(bytes(320 * 640 * 3), InputShape(320, 640))
    with pytest.raises(ValueError, match="null takes no input of the shape 320x640; its shapes are: 384x640, "):
        await replica.detect(DetectRequest(frame, OPTIONS, 10, version, "interactive", ""))
    await replica._rollout.close()


async def test_a_frame_enters_the_queue_with_its_shape_and_its_share_of_the_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = detector(monkeypatch)
    await change(replica, None)
    runner, wide = replica._rollout.runner, InputShape(320, 640)
    runner.info = replace(runner.info, engine=replace(runner.info.engine, rectangles=(wide,)))
    submitted: list[tuple[InputShape, float]] = []
    submit = runner.batcher.submit

    async def record(item: EngineInput, *, shape: InputShape, cost: float, **options: Any) -> Batched[DetectReply]:
        submitted.append((shape, cost))
        return await submit(item, shape=shape, cost=cost, **options)

    monkeypatch.setattr(runner.batcher, "submit", record)
    for shape in runner.info.shapes:
        frame = FrameBytes(bytes(shape.nbytes), shape)
        await replica.detect(DetectRequest(frame, OPTIONS, 10, runner.info.version, "interactive", ""))
    assert submitted == [(wide, 0.5), (InputShape.square(640), 1)]
    await replica._rollout.close()

from __future__ import annotations

import asyncio
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
from serve_app.ipc.frame_pool import SlotReader
from serve_app.types import DetectorState, DetectReply, DetectRequest
from tests.support.fake_replicas import OPTIONS, FakeHandle, ask
from tests.support.instruments import FakeInstrument, Record

pytestmark = pytest.mark.anyio


def detector(monkeypatch: pytest.MonkeyPatch, **model: Any) -> Detector:
    class DetectorWithoutCleanup(Detector):
        def __del__(self) -> None:  # type: ignore[override]  # only Serve can await the real one
            pass

    monkeypatch.setattr(ray, "get_gpu_ids", list)
    return DetectorWithoutCleanup(DetectorArgs(model={"engine": "null"} | model))


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
    frame = np.zeros((640, 640, 3), np.uint8).tobytes()
    request = DetectRequest(frame, OPTIONS, 10, version, "interactive", "")
    assert isinstance(await replica.detect(request), DetectReply)
    await change(replica, {"model": {"image_size_px": 320}})
    assert isinstance(await replica.detect(request), ModelChanged)

"""The way of a client's tensor from the Ingress into a slot, and to a fake Detector."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.deployments.tensors import Tensors
from serve_app.detections import Detections
from serve_app.errors import InvalidParameter, ModelChanged, Overloaded, ServeAppError, Unavailable
from serve_app.ipc.frame_pool import SlotReader
from serve_app.types import DetectReply, DetectRequest, SlotRef, Timing
from tests.support.fake_replicas import NOWHERE, FakeHandle

pytestmark = pytest.mark.anyio

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
PLANES = (PIXELS[..., ::-1].transpose(2, 0, 1) / 255).astype(np.float32)


class Detector(FakeHandle):
    """A fake Detector whose tensor is the first pixel of the frame. ``failures`` are its first answers."""

    def __init__(self, *failures: ServeAppError) -> None:
        super().__init__(self._reply)
        self.frames: list[NDArray[np.uint8]] = []
        self._failures = list(failures)
        self._reader = SlotReader()

    def _reply(self, request: DetectRequest) -> DetectReply | ServeAppError:
        assert isinstance(request.frame, SlotRef)
        self.frames.append(self._reader.view(request.frame)[0].copy())
        if self._failures:
            return self._failures.pop(0)
        return DetectReply(Detections.empty(), Timing(), tensor=self.frames[-1][0, 0].astype(np.float32))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[FakeHandle], Tensors]]:
    """Return a function that opens the path to a Detector, which is closed after the test."""
    monkeypatch.setattr(*NOWHERE)
    paths: list[Tensors] = []

    def open_one(detector: Any) -> Tensors:
        paths.append(Tensors({"default": detector}, threads=1))
        return paths[-1]

    yield open_one
    for path in paths:
        path.close()


async def infer(path: Tensors, planes: NDArray[np.floating] = PLANES) -> NDArray[np.float32]:
    tensor, version = await path.infer("default", planes, tenant="me", time_left_s=10)
    assert version == (await path.describe("default")).engine.version
    return tensor


async def test_the_detector_gets_the_bytes_that_the_client_had(opened: Callable[[FakeHandle], Tensors]) -> None:
    detector = Detector()
    tensor = await infer(opened(detector))
    assert tensor.tolist() == PIXELS[0, 0].tolist()
    np.testing.assert_array_equal(detector.frames[0], PIXELS)
    [request] = detector.requests
    assert (request.wants_tensor, request.traffic, request.tenant) == (True, "interactive", "me")


async def test_more_tensors_than_slots_are_answered(opened: Callable[[FakeHandle], Tensors]) -> None:
    path = opened(detector := Detector())
    tensors = await asyncio.gather(*(infer(path, np.full((3, 64, 64), number / 255)) for number in range(40)))
    assert [tensor[0] for tensor in tensors] == list(range(40))
    assert len(detector.frames) == 40


async def test_a_shape_that_the_model_does_not_take_is_refused(opened: Callable[[FakeHandle], Tensors]) -> None:
    with pytest.raises(InvalidParameter, match=r"takes no image of 64x32 .* use one of 64x64"):
        await infer(opened(Detector()), PLANES[:, :, :32])


async def test_a_refused_tensor_frees_its_slot(opened: Callable[[FakeHandle], Tensors]) -> None:
    path = opened(detector := Detector())
    for _ in range(40):
        with pytest.raises(InvalidParameter, match="no multiples of 1/255"):
            await infer(path, PLANES + np.float32(0.5 / 255))
    assert not detector.requests
    assert len(await infer(path)) == 3


async def test_a_tensor_is_retried_after_a_change_of_the_model(opened: Callable[[FakeHandle], Tensors]) -> None:
    detector = Detector(ModelChanged("changed"))
    await infer(opened(detector))
    assert len(detector.requests) == 2


async def test_a_full_queue_is_named(opened: Callable[[FakeHandle], Tensors]) -> None:
    detector = Detector(*[Overloaded("full", limit="batcher.max_queue_size")] * 9)
    with pytest.raises(Overloaded) as refused:
        await infer(opened(detector))
    assert refused.value.limit == "batcher.max_queue_size"


async def test_the_masks_of_a_model_that_segments_are_refused(opened: Callable[[FakeHandle], Tensors]) -> None:
    detector = Detector()
    detector.info = replace(detector.info, engine=replace(detector.info.engine, task="segment"))
    path = opened(detector)
    for asked in (infer(path), path.describe("default")):
        with pytest.raises(InvalidParameter, match="-image"):
            await asked
    assert not detector.requests


async def test_the_model_is_described_as_it_is_now(opened: Callable[[FakeHandle], Tensors]) -> None:
    path = opened(detector := Detector())
    before = await path.describe("default")
    detector.info = replace(detector.info, version="v2")
    assert [before.version, (await path.describe("default")).version] == ["v1", "v2"]
    detector.state.remote = _unavailable
    with pytest.raises(Unavailable):
        await path.describe("default")


async def _unavailable() -> ServeAppError:
    return Unavailable("no detector answers; retry later")

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.deployments.detector_client import DetectorClient
from serve_app.errors import ModelChanged, Overloaded, PoisonPicture, ServeAppError, SlotElsewhere, Unavailable
from serve_app.ipc.frame_pool import SlotReader
from serve_app.types import DetectRequest, FrameBytes, InputShape, SlotRef, Traffic
from tests.support.fake_replicas import REPLY, FakeHandle, ask, model_info

pytestmark = pytest.mark.anyio


async def test_a_frame_is_sent_by_its_slots_name_and_its_boxes_are_in_its_own_pixels() -> None:
    handle = FakeHandle()
    client = DetectorClient(handle, slots=1, traffic="interactive")
    answer = await ask(client, np.zeros((128, 128, 3), np.uint8))
    assert not isinstance(handle.requests[0].frame, bytes)
    assert answer.detections.xyxy.tolist() == [[64, 64, 128, 128]]
    assert answer.detections.labels == ("dog",)
    client.close()


async def test_a_frame_is_sent_as_bytes_to_a_detector_without_shared_memory() -> None:
    handle = FakeHandle(lambda request: REPLY if isinstance(request.frame, FrameBytes) else SlotElsewhere("elsewhere"))
    client = DetectorClient(handle, slots=1, traffic="interactive")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    await ask(client, pixels)
    _, by_bytes = handle.requests
    assert by_bytes.frame == FrameBytes(pixels.tobytes(), InputShape.square(64))
    client.close()


@pytest.mark.parametrize(
    ("raised", "error", "limit"),
    [
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), Overloaded, "max_queued_requests"),
        (DeploymentUnavailableError(DeploymentID("Detector")), Unavailable, ""),
        (Overloaded("full", limit="batcher.max_queue_size"), Overloaded, "batcher.max_queue_size"),
    ],
)
async def test_rays_errors_become_serve_app_errors(raised: Exception, error: type[ServeAppError], limit: str) -> None:
    client = DetectorClient(FakeHandle(lambda request: raised), slots=1, traffic="interactive")
    with pytest.raises(error) as refused:
        await ask(client, np.zeros((64, 64, 3), np.uint8))
    assert refused.value.limit == limit
    assert client.pool.leased == 0
    client.close()


class Dying:
    """A Detector that dies on each of its first ``deaths`` frames.

    If ``in_engine`` is true, the frame is already in the engine when the Detector dies. Otherwise, the frame is still
    in the queue.
    """

    def __init__(self, deaths: int, *, in_engine: bool) -> None:
        self.deaths, self.in_engine, self.reader = deaths, in_engine, SlotReader()

    def __call__(self, request: DetectRequest) -> Any:
        if self.deaths == 0:
            return REPLY
        self.deaths -= 1
        assert isinstance(request.frame, SlotRef)
        _, in_engine = self.reader.view(request.frame)
        in_engine[0] = self.in_engine
        return RayActorError()


async def test_a_frame_that_was_waiting_when_the_detector_died_is_retried_unchanged() -> None:
    handle = FakeHandle(Dying(5, in_engine=False))
    client = DetectorClient(handle, slots=1, traffic="interactive")
    assert (await ask(client, np.zeros((64, 64, 3), np.uint8))).detections.labels == ("dog",)
    assert [request.isolated for request in handle.requests] == [False] * 6
    client.close()


async def test_a_frame_that_was_in_the_engine_when_it_died_is_retried_alone() -> None:
    handle = FakeHandle(Dying(1, in_engine=True))
    client = DetectorClient(handle, slots=1, traffic="interactive")
    assert (await ask(client, np.zeros((64, 64, 3), np.uint8))).detections.labels == ("dog",)
    assert [request.isolated for request in handle.requests] == [False, True]
    client.close()


@pytest.mark.parametrize(("traffic", "deaths"), [("interactive", 2), ("stream", 2), ("job", 3)])
async def test_a_frame_that_kills_the_engine_while_alone_is_refused(traffic: Traffic, deaths: int) -> None:
    handle = FakeHandle(Dying(deaths, in_engine=True))
    client = DetectorClient(handle, slots=1, traffic=traffic)
    with pytest.raises(PoisonPicture, match=f"^{deaths} detectors crashed on this image"):
        await ask(client, np.zeros((64, 64, 3), np.uint8))
    # The next frame is accepted.
    assert (await ask(client, np.zeros((64, 64, 3), np.uint8))).detections.labels == ("dog",)
    assert [request.isolated for request in handle.requests] == [False, *[True] * (deaths - 1), False]
    client.close()


async def test_an_item_of_a_job_is_answered_although_two_detectors_died_with_it_by_chance() -> None:
    handle = FakeHandle(Dying(2, in_engine=True))
    client = DetectorClient(handle, slots=1, traffic="job")
    assert (await ask(client, np.zeros((64, 64, 3), np.uint8))).detections.labels == ("dog",)
    client.close()


async def test_after_a_change_the_client_uses_the_new_model_and_slots_of_its_size() -> None:
    handle = FakeHandle(lambda request: ModelChanged("changed") if request.model_version == "v1" else REPLY)
    client = DetectorClient(handle, slots=1, traffic="interactive")
    with pytest.raises(ModelChanged):
        await ask(client, np.zeros((64, 64, 3), np.uint8))
    handle.info = model_info("dog", version="v2", side_px=96)
    await ask(client, np.zeros((64, 64, 3), np.uint8))
    assert client.pool.shape == (96, 96)
    client.close()

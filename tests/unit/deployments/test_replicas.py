"""The border with Ray Serve, over a handle that is none."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.config import DetectorArgs, ModelArgs, parse_args
from serve_app.deployments import detector as detector_module
from serve_app.deployments import handles
from serve_app.deployments import preprocessor as preprocessor_module
from serve_app.deployments import supervisor_proxy as stream_client
from serve_app.deployments.detector import Detector
from serve_app.deployments.detector_client import DetectorClient
from serve_app.deployments.preprocessor import Preprocessor
from serve_app.deployments.supervisor_proxy import StreamClient
from serve_app.errors import (
    ModelChanged,
    ModelError,
    Overloaded,
    PoisonPicture,
    ServeAppError,
    SlotElsewhere,
    Unavailable,
)
from serve_app.images.letterbox import letterbox
from serve_app.ipc.frame_pool import SlotReader
from serve_app.models import load as models
from serve_app.schemas.detect import DetectQuery
from serve_app.types import Detections, DetectOptions, DetectReply, DetectRequest, ModelInfo
from tests.support import squares
from tests.unit.telemetry.test_metrics import FakeInstrument, Record

pytestmark = pytest.mark.anyio

OPTIONS = DetectOptions(confidence=0.5, iou=0.7, max_detections=300)
REPLY = DetectReply(
    Detections(np.array([[32, 32, 64, 64]], np.float32), np.array([0.9], np.float32), np.array([0], np.int32)),
    queue_s=0.0,
    inference_s=0.0,
    postprocess_s=0.0,
    batch_size=1,
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No replica is on this node, so that the handle is asked, and nobody looks for one."""

    async def listen(methods: dict[str, Any], *, max_calls: int, limit: str) -> None:
        pass

    monkeypatch.setattr(handles, "service_name", lambda *_: "none")
    monkeypatch.setattr(detector_module, "listen", listen)
    monkeypatch.setattr(preprocessor_module, "listen", listen)


class FakeHandle:
    """A Detector's handle: ``answer`` says what each request gets, an error raised or returned."""

    app_name, deployment_name = "sightline", "Detector"

    def __init__(self, answer: Callable[[DetectRequest], Any] = lambda request: REPLY) -> None:
        self.answer = answer
        self.info = ModelInfo("fake", "v1", "fake", ("dog",), 64, end_to_end=False)
        self.requests: list[DetectRequest] = []
        self.model = SimpleNamespace(remote=self._model)
        self.detect = SimpleNamespace(remote=self._detect)

    def _init(self, **options: Any) -> None:
        pass

    async def _model(self) -> ModelInfo:
        return self.info

    async def _detect(self, request: DetectRequest) -> DetectReply | ServeAppError:
        self.requests.append(request)
        result = self.answer(request)
        if isinstance(result, Exception) and not isinstance(result, ServeAppError):
            raise result
        return result


async def ask(client: DetectorClient, pixels: np.ndarray) -> Any:
    model = await client.model(1)
    with client.pool.lease() as slot:
        box = letterbox(pixels, slot.pixels)
        return await client.detect(slot, box, model, OPTIONS, time_left_s=10)


async def test_a_frame_goes_by_name_and_its_boxes_come_back_in_its_pixels() -> None:
    handle = FakeHandle()
    client = DetectorClient(handle, slots=1, traffic="interactive")
    answer = await ask(client, np.zeros((128, 128, 3), np.uint8))
    assert not isinstance(handle.requests[0].frame, bytes)
    assert answer.detections.xyxy.tolist() == [[64, 64, 128, 128]]
    assert answer.labels == ("dog",)
    client.close()


async def test_where_memory_is_not_shared_the_bytes_go() -> None:
    handle = FakeHandle(lambda request: REPLY if isinstance(request.frame, bytes) else SlotElsewhere("elsewhere"))
    client = DetectorClient(handle, slots=1, traffic="interactive")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    await ask(client, pixels)
    _, by_bytes = handle.requests
    assert by_bytes.frame == pixels.tobytes()
    client.close()


@pytest.mark.parametrize(
    ("is_elsewhere", "crossings"), [(False, []), (True, [("crossings", 1, {"traffic": "stream"})])]
)
async def test_a_frame_counts_as_a_crossing_where_memory_is_not_shared(
    is_elsewhere: bool, crossings: list[Record], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    records: list[Record] = []
    monkeypatch.setattr(detector_module, "RayInstrument", lambda metric: FakeInstrument(metric, records))
    replica = detector(monkeypatch, image_size_px=64)
    await replica.reconfigure(None, None)
    if is_elsewhere:
        replica._reader = SlotReader(tmp_path)
    handle = FakeHandle()
    handle.info = await replica.model()
    handle.detect = SimpleNamespace(remote=replica.detect)
    client = DetectorClient(handle, slots=1, traffic="stream")
    await ask(client, np.zeros((64, 64, 3), np.uint8))
    assert [record for record in records if record[0] == "crossings"] == crossings
    assert ("images", 1, {"traffic": "stream"}) in records
    client.close()
    await replica._now.close()


@pytest.mark.parametrize(
    ("raised", "error", "limit"),
    [
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), Overloaded, "max_queued_requests"),
        (DeploymentUnavailableError(DeploymentID("Detector")), Unavailable, ""),
        (Overloaded("full", limit="batcher.max_queue_size"), Overloaded, "batcher.max_queue_size"),
    ],
)
async def test_rays_errors_become_ours(raised: Exception, error: type[ServeAppError], limit: str) -> None:
    client = DetectorClient(FakeHandle(lambda request: raised), slots=1, traffic="interactive")
    with pytest.raises(error) as refused:
        await ask(client, np.zeros((64, 64, 3), np.uint8))
    assert refused.value.limit == limit
    assert client.pool.leased == 0
    client.close()


class Dying:
    """A Detector that dies of the first ``deaths`` frames, which are in its engine then, or only wait for it."""

    def __init__(self, deaths: int, *, in_engine: bool) -> None:
        self.deaths, self.in_engine, self.reader = deaths, in_engine, SlotReader()

    def __call__(self, request: DetectRequest) -> Any:
        if self.deaths == 0:
            return REPLY
        self.deaths -= 1
        _, mark = self.reader.view(request.frame)
        mark[0] = self.in_engine
        return RayActorError()


async def test_a_frame_that_only_waited_when_the_detector_died_is_sent_again_as_it_was() -> None:
    handle = FakeHandle(Dying(5, in_engine=False))
    client = DetectorClient(handle, slots=1, traffic="interactive")
    assert (await ask(client, np.zeros((64, 64, 3), np.uint8))).labels == ("dog",)
    assert [request.isolated for request in handle.requests] == [False] * 6
    client.close()


async def test_a_frame_that_was_in_the_engine_when_it_died_is_isolated_from_then_on() -> None:
    handle = FakeHandle(Dying(1, in_engine=True))
    client = DetectorClient(handle, slots=1, traffic="interactive")
    assert (await ask(client, np.zeros((64, 64, 3), np.uint8))).labels == ("dog",)
    assert [request.isolated for request in handle.requests] == [False, True]
    client.close()


async def test_a_frame_that_kills_the_engine_in_isolation_is_refused() -> None:
    handle = FakeHandle(Dying(2, in_engine=True))
    client = DetectorClient(handle, slots=1, traffic="interactive")
    with pytest.raises(PoisonPicture):
        await ask(client, np.zeros((64, 64, 3), np.uint8))
    assert (await ask(client, np.zeros((64, 64, 3), np.uint8))).labels == ("dog",)  # nobody else is
    assert [request.isolated for request in handle.requests] == [False, True, False]
    client.close()


async def test_after_a_change_the_new_model_is_asked_for_and_the_slots_fit_it() -> None:
    handle = FakeHandle(lambda request: ModelChanged("changed") if request.model_version == "v1" else REPLY)
    client = DetectorClient(handle, slots=1, traffic="interactive")
    with pytest.raises(ModelChanged):
        await ask(client, np.zeros((64, 64, 3), np.uint8))
    handle.info = ModelInfo("fake", "v2", "fake", ("dog",), 96, end_to_end=False)
    await ask(client, np.zeros((64, 64, 3), np.uint8))
    assert client.pool.size_px == 96
    client.close()


async def preprocessor(handle: FakeHandle, **others: FakeHandle) -> Preprocessor:
    class NeverStopped(Preprocessor):
        def __del__(self) -> None:  # Serve awaits the real one, the garbage collector does not
            pass

    made = NeverStopped.__new__(NeverStopped)
    await made.__init__({"default": handle, **others}, parse_args({"preprocessor": {"slots": 2, "decode_threads": 1}}))
    return made


async def test_a_picture_under_a_roll_out_is_detected_by_the_new_model() -> None:
    handle = FakeHandle()

    def change_then_answer(request: DetectRequest) -> DetectReply | ServeAppError:
        if request.model_version == "v1":
            handle.info = ModelInfo("fake", "v2", "fake", ("cat",), 96, end_to_end=False)
            return ModelChanged("changed")
        return REPLY

    handle.answer = change_then_answer
    stage = await preprocessor(handle)
    answer = await stage.detect(squares.encode(squares.picture([])), DetectQuery(), False, 5)
    assert answer.labels == ("cat",)


async def test_a_picture_waits_in_its_tenants_turn() -> None:
    handle = FakeHandle()
    stage = await preprocessor(handle)
    for tenant in ("dock", ""):
        await stage.detect(squares.encode(squares.picture([])), DetectQuery(), False, 5, tenant)
    assert [(request.traffic, request.tenant) for request in handle.requests] == [
        ("interactive", "dock"),
        ("interactive", ""),
    ]


async def test_a_cancelled_picture_keeps_its_slot_until_nothing_writes_into_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given back earlier, the slot would be another picture's, and this one's pixels would land in it."""
    decoding, go_on = threading.Event(), threading.Event()
    decode = preprocessor_module.preprocess

    def slow_decode(data: bytes, max_pixels: int, model_input: np.ndarray) -> Any:
        decoding.set()
        assert go_on.wait(30)
        return decode(data, max_pixels, model_input)

    stage = await preprocessor(FakeHandle())
    monkeypatch.setattr(preprocessor_module, "preprocess", slow_decode)
    pool = stage._lanes["default"].detector.pool
    task = asyncio.create_task(stage.detect(squares.encode(squares.picture([])), DetectQuery(), False, 5))
    await asyncio.to_thread(decoding.wait, 30)
    for _ in range(2):  # once more is once more
        task.cancel()
        await asyncio.wait([task], timeout=0.2)
        assert (task.done(), pool.leased) == (False, 1)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.leased == 0


class SupervisorHandle:
    """A StreamSupervisor's: each method is gone for so many calls, and then answers with its name."""

    app_name, deployment_name = "sightline", "StreamSupervisor"

    def __init__(self, deaths: float) -> None:
        self.deaths, self.calls = deaths, 0

    def _init(self, **options: Any) -> None:
        pass

    def __getattr__(self, method: str) -> Any:
        async def remote(*args: Any) -> str:
            self.calls += 1
            if self.calls <= self.deaths:
                raise RayActorError
            return method

        return SimpleNamespace(remote=remote)


READS: dict[str, tuple[Any, ...]] = {
    "all": (), "status": ("lot",), "regions": ("lot",), "events": ("lot", None, 0.0), "snapshot": ("lot", None, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("method", READS)
async def test_who_reads_of_a_stream_does_not_notice_that_its_supervisor_died(method: str) -> None:
    client = StreamClient(SupervisorHandle(deaths=3))
    options = {"boxes": True} if method == "snapshot" else {}
    assert await getattr(client, method)(*READS[method], **options) == method


@pytest.mark.parametrize("method", ["create", "replace", "delete", "pause", "resume"])
async def test_a_change_to_a_stream_is_not_made_twice(method: str) -> None:
    handle = SupervisorHandle(deaths=1)
    with pytest.raises(Unavailable):
        await getattr(StreamClient(handle), method)("lot")
    assert handle.calls == 1


async def test_a_supervisor_that_stays_away_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_client, "_TIMEOUT_S", 0.2)
    with pytest.raises(Unavailable, match="the stream supervisor does not answer"):
        await StreamClient(SupervisorHandle(deaths=float("inf"))).status("lot")


def detector(monkeypatch: pytest.MonkeyPatch, **model: Any) -> Detector:
    class NeverStopped(Detector):
        def __del__(self) -> None:
            pass

    monkeypatch.setattr(detector_module.ray, "get_gpu_ids", list)
    return NeverStopped(DetectorArgs(model={"engine": "null"} | model))


async def change(replica: Detector, user_config: Any) -> ModelInfo:
    """The model that it then serves."""
    await replica.reconfigure(user_config, None)
    while (model := await replica.model()).is_changing:
        await asyncio.sleep(0.01)
    return model


async def test_a_detector_changes_to_another_model_under_way_and_lets_go_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = detector(monkeypatch)
    before = await change(replica, None)
    engine = weakref.ref(replica._now._engine)
    gc.freeze()  # as Serve does it, once a replica has started
    await replica.reconfigure({"model": {"image_size_px": 320}, "detect": {"confidence": 0.25}}, None)
    assert (await replica.model()).is_changing
    after = await change(replica, {"model": {"image_size_px": 320}, "detect": {"confidence": 0.25}})
    assert (before.size_px, after.size_px, after.defaults.confidence) == (640, 320, 0.25)
    while replica._retiring:
        await asyncio.sleep(0.01)
    assert engine() is None
    assert await change(replica, None) == before
    gc.unfreeze()


async def test_the_newest_change_counts_though_one_before_it_does_not_come_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = detector(monkeypatch)
    await change(replica, None)
    may_end = threading.Event()
    load = models.load

    def hang(args: ModelArgs, **options: Any) -> Any:
        if args.image_size_px == 320:
            may_end.wait(30)
        return load(args, **options)

    monkeypatch.setattr(models, "load", hang)
    await replica.reconfigure({"model": {"image_size_px": 320}}, None)
    assert (await change(replica, {"model": {"image_size_px": 96}})).size_px == 96
    may_end.set()


async def test_another_rank_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = detector(monkeypatch)
    await change(replica, {"detect": {"confidence": 0.3}})
    await replica.reconfigure({"detect": {"confidence": 0.3}}, 1)
    assert not (await replica.model()).is_changing


async def test_a_detector_that_starts_with_what_others_refused_serves_what_was_deployed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = detector(monkeypatch)
    model = await change(replica, {"model": {"engine": "openvino", "weights": "nowhere.onnx"}})
    assert (model.name, "there is no nowhere.onnx" in model.refused_change) == ("null", True)
    assert not (await change(replica, None)).refused_change


@pytest.mark.parametrize("is_new", [False, True])
async def test_a_change_that_fails_for_another_reason_shows_nothing_of_it(
    is_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new replica has it in the ``user_config`` that it starts with."""
    replica = detector(monkeypatch)
    before = await change(detector(monkeypatch) if is_new else replica, None)
    load = models.load

    def fail(args: ModelArgs, **options: Any) -> Any:
        if args.image_size_px == 96:
            raise RuntimeError("CUDA out of memory at 0x7f")
        return load(args, **options)

    monkeypatch.setattr(models, "load", fail)
    after = await change(replica, {"model": {"image_size_px": 96}})
    assert (after.version, after.refused_change) == (before.version, "an internal error: see the log")


@pytest.mark.parametrize(
    ("user_config", "reason"),
    [
        ({"model": {"engine": "openvino", "weights": "/nowhere/at/all.onnx"}}, "model.weights: there is no all.onnx"),
        ({"model": {"engine": "openvino", "weights": "/my models/all.onnx"}}, "^model.weights: there is no all.onnx"),
        ({"model": {"engine": "openvino", "weights": "/a b/c.onnx: fp16/fp32"}}, "there is no c.onnx: fp16/fp32"),
        ({"model": {"wights": "a.pt"}}, r"user_config\.model\.wights: Extra inputs"),
        ({"limits": {"max_body_mib": 1}}, r"user_config\.limits: Extra inputs"),
        ({"batcher": {"max_queue_size": 5}}, "max_queue_size cannot change"),
        (["model"], "its sections are"),
    ],
)
async def test_a_change_that_cannot_be_made_leaves_the_model_and_says_why(
    user_config: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = detector(monkeypatch)
    before = await change(replica, None)
    after = await change(replica, user_config)
    assert after.version == before.version
    assert re.search(reason, after.refused_change)
    assert not (await change(replica, {"detect": {"confidence": 0.3}})).refused_change


async def test_a_detector_that_cannot_load_its_first_model_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError):
        await detector(monkeypatch, engine="openvino", weights="nowhere.onnx").reconfigure(None, None)


async def test_a_frame_for_the_model_before_is_sent_back(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = detector(monkeypatch)
    version = (await change(replica, None)).version
    frame = np.zeros((640, 640, 3), np.uint8).tobytes()
    request = DetectRequest(frame, OPTIONS, 10, version, "interactive", "")
    assert isinstance(await replica.detect(request), DetectReply)
    await change(replica, {"model": {"image_size_px": 320}})
    assert isinstance(await replica.detect(request), ModelChanged)


async def test_who_waits_for_one_model_is_not_in_the_way_of_another() -> None:
    asleep = FakeHandle()
    asleep.model = SimpleNamespace(remote=asyncio.Event().wait)
    stage = await preprocessor(FakeHandle(), asleep=asleep)
    picture = squares.encode(squares.picture([]))
    waiting = [asyncio.create_task(stage.detect(picture, DetectQuery(model="asleep"), False, 5)) for _ in range(2)]
    await asyncio.sleep(0)
    assert (await stage.detect(picture, DetectQuery(), False, 5)).labels == ("dog",)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_a_model_that_a_roll_out_has_not_brought_yet_is_unavailable() -> None:
    stage = await preprocessor(FakeHandle())
    assert isinstance(await stage.detect(b"", DetectQuery(model="plates"), False, 5), Unavailable)

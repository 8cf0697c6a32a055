from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest

from serve_app.config import JpegDecoding, parse_args
from serve_app.deployments import preprocessor as preprocessor_module
from serve_app.deployments.preprocessor import Preprocessor
from serve_app.detections import Mask, Rle
from serve_app.errors import ModelChanged, ServeAppError, Unavailable, Undecodable
from serve_app.images.drawing import encode_jpeg
from serve_app.images.prepare import prepare, prepare_new
from serve_app.ipc.frame_pool import SlotReader
from serve_app.types import (
    DEFAULT_MODEL,
    DetectParams,
    DetectReply,
    DetectRequest,
    MaskFormat,
    PictureRequest,
    SlotRef,
)
from tests.support import squares
from tests.support.fake_replicas import REPLY, FakeHandle, model_info

pytestmark = pytest.mark.anyio


async def preprocessor(handle: FakeHandle, **others: FakeHandle) -> Preprocessor:
    class PreprocessorWithoutCleanup(Preprocessor):
        def __del__(self) -> None:  # type: ignore[override]  # only Serve can await the real one
            pass

    made = PreprocessorWithoutCleanup.__new__(PreprocessorWithoutCleanup)
    args = parse_args({"preprocessor": {"slots": 2, "decode_threads": 1}})
    await Preprocessor.__init__(made, {"default": handle, **others}, args, FakeHandle())
    return made


def request(model: str = DEFAULT_MODEL, tenant: str = "") -> PictureRequest:
    """Return a request with an image that shows no objects."""
    picture = squares.encode(squares.picture([]))
    return PictureRequest(picture, DetectParams(model), time_left_s=5, tenant=tenant)


async def test_an_image_during_a_roll_out_is_processed_by_the_new_model() -> None:
    handle = FakeHandle()

    def change_then_answer(request: DetectRequest) -> DetectReply | ServeAppError:
        if request.model_version == "v1":
            handle.info = model_info("cat", version="v2", side_px=96)
            return ModelChanged("changed")
        return REPLY

    handle.answer = change_then_answer
    stage = await preprocessor(handle)
    answer = await stage.detect(request())
    assert answer.detections.labels == ("cat",)


@pytest.mark.parametrize("is_suspect", [False, True])
@pytest.mark.parametrize("decoding", ["reduced", "exact"])
async def test_images_are_decoded_as_the_settings_say(
    decoding: JpegDecoding, is_suspect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_APP_DECODE", decoding)
    handle, frames, views = FakeHandle(), [], SlotReader()

    def note_the_frame(request: DetectRequest) -> DetectReply:
        assert isinstance(request.frame, SlotRef)
        frames.append(views.view(request.frame)[0].copy())
        return REPLY

    handle.answer = note_the_frame
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    stage = await preprocessor(handle)
    stage._quarantine._time_limit_s = 60.0  # its process starts slowly on a busy machine
    picture = PictureRequest(data, DetectParams(DEFAULT_MODEL), time_left_s=60, tenant="", is_suspect=is_suspect)
    answer = await stage.detect(picture)
    assert (answer.width_px, answer.height_px) == (256, 256)
    _, _, expected = prepare_new(data, 256 * 256, decoding, handle.info.shapes)
    assert np.array_equal(frames[0], expected)
    views.close()


async def test_requests_to_the_detector_name_the_tenant() -> None:
    handle = FakeHandle()
    stage = await preprocessor(handle)
    for tenant in ("dock", ""):
        await stage.detect(request(tenant=tenant))
    assert [(request.traffic, request.tenant) for request in handle.requests] == [
        ("interactive", "dock"),
        ("interactive", ""),
    ]


async def test_a_cancelled_image_keeps_its_slot_until_decoding_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the slot were freed earlier, the decoder could write this image over another image in the same slot."""
    decoding, may_continue = threading.Event(), threading.Event()
    decode = prepare

    def slow_decode(*arguments: Any) -> Any:
        decoding.set()
        assert may_continue.wait(30)
        return decode(*arguments)

    stage = await preprocessor(FakeHandle())
    monkeypatch.setattr(preprocessor_module, "prepare", slow_decode)
    pool = stage._queues["default"].detector.pool
    task = asyncio.create_task(stage.detect(request()))
    await asyncio.to_thread(decoding.wait, 30)
    for _ in range(2):  # a second cancellation must not free the slot either
        task.cancel()
        await asyncio.wait([task], timeout=0.2)
        assert (task.done(), pool.leased) == (False, 1)
    may_continue.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.leased == 0


async def test_images_that_wait_for_one_model_do_not_delay_another_model() -> None:
    asleep = FakeHandle()
    asleep.state = SimpleNamespace(remote=asyncio.Event().wait)
    stage = await preprocessor(FakeHandle(), asleep=asleep)
    waiting = [asyncio.create_task(stage.detect(request("asleep"))) for _ in range(2)]
    await asyncio.sleep(0)
    assert (await stage.detect(request())).detections.labels == ("dog",)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_a_model_that_is_not_deployed_yet_is_unavailable() -> None:
    stage = await preprocessor(FakeHandle())
    assert isinstance(await stage.detect(request("plates")), Unavailable)


async def test_the_memory_of_a_bad_image_is_freed_without_a_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels: list[weakref.ref[np.ndarray]] = []

    def fail(*arguments: object) -> NoReturn:
        decoded = np.zeros((2, 2, 3), np.uint8)
        pixels.append(weakref.ref(decoded))
        raise Undecodable("the image is damaged")

    monkeypatch.setattr(preprocessor_module, "prepare", fail)
    stage = await preprocessor(FakeHandle())
    gc.disable()
    try:
        assert isinstance(await stage.detect(request()), Undecodable)
        await asyncio.sleep(0)  # the event loop drops its last reference in its next iteration
        assert [ref() is None for ref in pixels] == [True]
    finally:
        gc.enable()


async def test_an_image_that_is_worth_a_look_is_kept_but_a_suspect_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_APP_COLLECT_FOLDER", str(tmp_path))
    stage = await preprocessor(FakeHandle())
    assert stage._collector is not None
    stage._quarantine._time_limit_s = 60.0  # its process starts slowly on a busy machine
    for is_suspect, tenant in ((True, "gate"), (False, "dock"), (False, "yard")):
        await stage.detect(replace(request(tenant=tenant), time_left_s=60, is_suspect=is_suspect))
    await stage.check_health()
    await asyncio.to_thread(stage._collector.close, 30)
    (path,) = tmp_path.glob("*/images/*.jpg")
    assert path.name.split("-")[1:3] == ["new_class", "dock"]


@pytest.mark.parametrize("kind", ["polygon", "rle"])
async def test_masks_become_the_wanted_description(kind: MaskFormat) -> None:
    mask = Mask(np.ones((8, 8), np.bool_), (32, 32, 64, 64))
    handle = FakeHandle(lambda _: replace(REPLY, detections=replace(REPLY.detections, masks=(mask,))))
    stage = await preprocessor(handle)
    sent = request()
    found = (await stage.detect(replace(sent, params=replace(sent.params, mask=kind)))).detections
    assert found.masks is None  # it would be sent to the Ingress in vain
    assert found.outlines is not None
    assert isinstance(found.outlines[0], Rle) == (kind == "rle")


async def test_a_pose_has_the_names_of_the_models_keypoints() -> None:
    keypoints = np.zeros((1, 2, 3), np.float32)
    handle = FakeHandle(lambda _: replace(REPLY, detections=replace(REPLY.detections, keypoints=keypoints)))
    handle.info = replace(handle.info, engine=replace(handle.info.engine, keypoints=("head", "tail")))
    stage = await preprocessor(handle)
    assert (await stage.detect(request())).keypoint_names == ("head", "tail")

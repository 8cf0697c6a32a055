from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serve_app.config import parse_args
from serve_app.deployments import preprocessor as preprocessor_module
from serve_app.deployments.preprocessor import Preprocessor
from serve_app.errors import ModelChanged, ServeAppError, Unavailable
from serve_app.images.prepare import prepare
from serve_app.types import DEFAULT_MODEL, DetectParams, DetectReply, DetectRequest, PictureRequest
from tests.support import squares
from tests.support.fake_replicas import REPLY, FakeHandle, model_info

pytestmark = pytest.mark.anyio


async def preprocessor(handle: FakeHandle, **others: FakeHandle) -> Preprocessor:
    class NeverStopped(Preprocessor):
        def __del__(self) -> None:  # type: ignore[override]  # Serve awaits the real one, the garbage collector does not
            pass

    made = NeverStopped.__new__(NeverStopped)
    args = parse_args({"preprocessor": {"slots": 2, "decode_threads": 1}})
    await Preprocessor.__init__(made, {"default": handle, **others}, args)
    return made


def request(model: str = DEFAULT_MODEL, tenant: str = "") -> PictureRequest:
    """Return a request for a picture in which nothing is."""
    picture = squares.encode(squares.picture([]))
    return PictureRequest(picture, DetectParams(model), time_left_s=5, tenant=tenant)


async def test_a_picture_under_a_roll_out_is_detected_by_the_new_model() -> None:
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


async def test_a_picture_waits_in_its_tenants_turn() -> None:
    handle = FakeHandle()
    stage = await preprocessor(handle)
    for tenant in ("dock", ""):
        await stage.detect(request(tenant=tenant))
    assert [(request.traffic, request.tenant) for request in handle.requests] == [
        ("interactive", "dock"),
        ("interactive", ""),
    ]


async def test_a_cancelled_picture_keeps_its_slot_until_nothing_writes_into_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given back earlier, the slot would be another picture's, and this one's pixels would land in it."""
    decoding, go_on = threading.Event(), threading.Event()
    decode = prepare

    def slow_decode(data: bytes, max_pixels: int, model_input: np.ndarray) -> Any:
        decoding.set()
        assert go_on.wait(30)
        return decode(data, max_pixels, model_input)

    stage = await preprocessor(FakeHandle())
    monkeypatch.setattr(preprocessor_module, "prepare", slow_decode)
    pool = stage._queues["default"].detector.pool
    task = asyncio.create_task(stage.detect(request()))
    await asyncio.to_thread(decoding.wait, 30)
    for _ in range(2):  # once more is once more
        task.cancel()
        await asyncio.wait([task], timeout=0.2)
        assert (task.done(), pool.leased) == (False, 1)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.leased == 0


async def test_who_waits_for_one_model_is_not_in_the_way_of_another() -> None:
    asleep = FakeHandle()
    asleep.state = SimpleNamespace(remote=asyncio.Event().wait)
    stage = await preprocessor(FakeHandle(), asleep=asleep)
    waiting = [asyncio.create_task(stage.detect(request("asleep"))) for _ in range(2)]
    await asyncio.sleep(0)
    assert (await stage.detect(request())).detections.labels == ("dog",)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_a_model_that_a_roll_out_has_not_brought_yet_is_unavailable() -> None:
    stage = await preprocessor(FakeHandle())
    assert isinstance(await stage.detect(request("plates")), Unavailable)

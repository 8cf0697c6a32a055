"""Tests that a frame is encoded once, however many clients ask for it."""

from __future__ import annotations

import asyncio

import cv2
import numpy as np
import pytest

from serve_app.detections import Detections
from serve_app.streams.outputs import snapshot
from serve_app.streams.outputs.snapshot import Snapshots
from serve_app.types import Answer, Frame, InputShape, Pixels, Snapshot, Timing

pytestmark = pytest.mark.anyio

PIXELS: Pixels = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the ids of the frames that were encoded."""
    ids: list[int] = []

    def encode(frame: Frame, pixels: Pixels, answer: Answer | None, max_side_px: int | None) -> Snapshot:
        ids.append(frame.frame_id)
        return Snapshot(frame.frame_id, b"jpeg", frame.captured_at_s)

    monkeypatch.setattr(snapshot, "_encode", encode)
    return ids


def frame(frame_id: int) -> Frame:
    return Frame(frame_id, 5.0 + frame_id, 0.0, None, lambda: PIXELS)  # type: ignore[arg-type]


def decoded(shot: Snapshot) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(shot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return np.asarray(pixels)


async def test_clients_share_the_image_of_the_newest_frame(encoded: list[int]) -> None:
    snapshots = Snapshots()
    shots = await asyncio.gather(*(snapshots.take(frame(1), PIXELS, None) for _ in range(9)))
    assert set(shots) == {Snapshot(1, b"jpeg", 6.0)}
    assert (await snapshots.take(frame(2), PIXELS, None)).frame_id == 2
    assert encoded == [1, 2]


async def test_a_client_that_leaves_does_not_cost_the_others_their_image(encoded: list[int]) -> None:
    snapshots = Snapshots()
    first, second = (asyncio.create_task(snapshots.take(frame(1), PIXELS, None)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).frame_id == 1
    assert encoded == [1]


async def test_a_large_frame_is_scaled_down_with_its_boxes_and_stays_as_it_is() -> None:
    pixels: Pixels = np.full((400, 1000, 3), 128, np.uint8)
    box = np.array([[500, 100, 900, 300]], np.float32)
    found = Detections(box, np.array([0.9], np.float32), np.array([0], np.int32), ("dog",))
    answer = Answer(found, 1000, 400, "fake", 1, Timing(), InputShape.square(640))
    snapshots = Snapshots()
    small = await snapshots.take(frame(1), pixels, answer, 500)
    plain = await snapshots.take(frame(1), pixels, None, 500)
    whole = await snapshots.take(frame(1), pixels, answer, 2000)
    shown, background, large = map(decoded, (small, plain, whole))
    assert (shown.shape, background.shape, large.shape) == ((200, 500, 3), (200, 500, 3), (400, 1000, 3))
    assert abs(background.astype(int) - 128).max() < 3
    changed = np.flatnonzero((abs(shown.astype(int) - 128) > 30).any(axis=(1, 2)))
    assert 0 < changed.min() < 55
    assert 145 < changed.max() < 156  # the lower edge of the box, at half of 300
    assert (pixels == 128).all()

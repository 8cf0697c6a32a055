"""Tests that a frame is encoded once, however many clients ask for it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serve_app.streams.outputs import snapshot
from serve_app.streams.outputs.snapshot import Snapshots
from serve_app.types import Answer, Frame, Pixels, Snapshot

pytestmark = pytest.mark.anyio

PIXELS: Pixels = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the ids of the frames that were encoded."""
    ids: list[int] = []

    def encode(frame: Frame, pixels: Pixels, answer: Answer | None) -> Snapshot:
        ids.append(frame.frame_id)
        return Snapshot(frame.frame_id, b"jpeg", frame.captured_at_s)

    monkeypatch.setattr(snapshot, "_encode", encode)
    return ids


def frame(frame_id: int) -> Frame:
    return Frame(frame_id, 5.0 + frame_id, 0.0, None, lambda: PIXELS)  # type: ignore[arg-type]


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

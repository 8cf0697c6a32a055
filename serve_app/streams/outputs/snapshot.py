"""A processed frame of a stream as a JPEG."""

from __future__ import annotations

import asyncio

import cv2

from serve_app.detections import Detections
from serve_app.images.drawing import draw, encode_jpeg
from serve_app.images.scaling import scaled
from serve_app.types import Answer, Frame, Pixels, Snapshot


class Snapshots:
    """Encodes frames of one stream. However many clients ask for the same image of a frame, it is encoded once."""

    def __init__(self) -> None:
        self._frame_id: int | None = None  # the frame whose images are kept
        # By whether boxes are drawn, and by the longest side. The API asks for two sizes, so there are few.
        self._encoding: dict[tuple[bool, int | None], asyncio.Task[Snapshot]] = {}

    async def take(
        self, frame: Frame, pixels: Pixels, answer: Answer | None, max_side_px: int | None = None
    ) -> Snapshot:
        """Return the frame as a JPEG. If there is an answer, its boxes are drawn.

        If a side is longer than ``max_side_px``, the frame is scaled down.
        """
        if frame.frame_id != self._frame_id:
            self._frame_id, self._encoding = frame.frame_id, {}
        kind = answer is not None, max_side_px
        task = self._encoding.get(kind)
        if task is None or task.cancelled():
            task = asyncio.create_task(asyncio.to_thread(_encode, frame, pixels, answer, max_side_px))
            self._encoding[kind] = task
        return await asyncio.shield(task)  # shielded, because other clients may wait for the same image


def _encode(frame: Frame, pixels: Pixels, answer: Answer | None, max_side_px: int | None) -> Snapshot:
    found = None if answer is None else answer.detections
    if max_side_px is not None and max(pixels.shape[:2]) > max_side_px:
        pixels, found = _small(pixels, found, max_side_px)
    elif found is not None:
        pixels = pixels.copy()
    if found is not None:
        pixels = draw(pixels, found)
    return Snapshot(frame.frame_id, encode_jpeg(pixels), frame.captured_at_s)


def _small(pixels: Pixels, found: Detections | None, max_side_px: int) -> tuple[Pixels, Detections | None]:
    height, width = pixels.shape[:2]
    scale = max_side_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small, None if found is None else scaled(found, size[0] / width, size[1] / height)

"""A processed frame of a stream as a JPEG."""

from __future__ import annotations

import asyncio

from serve_app.images.drawing import draw, encode_jpeg
from serve_app.types import Answer, Frame, Pixels, Snapshot


class Snapshots:
    """Encodes frames of one stream. However many clients ask for the newest frame, it is encoded once."""

    def __init__(self) -> None:
        self._frame_id: int | None = None  # the frame whose images are kept
        self._encoding: dict[bool, asyncio.Task[Snapshot]] = {}  # by whether boxes are drawn

    async def take(self, frame: Frame, pixels: Pixels, answer: Answer | None) -> Snapshot:
        """Return the frame as a JPEG. If there is an answer, its boxes are drawn."""
        if frame.frame_id != self._frame_id:
            self._frame_id, self._encoding = frame.frame_id, {}
        task = self._encoding.get(answer is not None)
        if task is None or task.cancelled():
            task = asyncio.create_task(asyncio.to_thread(_encode, frame, pixels, answer))
            self._encoding[answer is not None] = task
        return await asyncio.shield(task)  # shielded, because other clients may wait for the same image


def _encode(frame: Frame, pixels: Pixels, answer: Answer | None) -> Snapshot:
    if answer is not None:
        pixels = draw(pixels.copy(), answer.detections)
    return Snapshot(frame.frame_id, encode_jpeg(pixels), frame.captured_at_s)

"""A processed frame of a stream as a JPEG."""

from __future__ import annotations

from serve_app.images.drawing import draw, encode_jpeg
from serve_app.types import Answer, Frame, Pixels, Snapshot


def take_snapshot(frame: Frame, pixels: Pixels, answer: Answer | None) -> Snapshot:
    """Return the frame as a JPEG. If there is an answer, its boxes are drawn."""
    if answer is not None:
        pixels = draw(pixels.copy(), answer.detections)
    return Snapshot(frame.frame_id, encode_jpeg(pixels))

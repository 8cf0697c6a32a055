"""Frames for videos that the server writes: clips and video sinks."""

from __future__ import annotations

import cv2

from serve_app.detections import Detections
from serve_app.images.drawing import draw
from serve_app.images.scaling import scaled
from serve_app.types import Pixels

_MAX_SIDE_PX = 1280  # limit for a video's width and height


def draw_small(pixels: Pixels, detections: Detections) -> Pixels:
    """Return a frame, scaled down to the size of a video, with the boxes drawn.

    Width and height are even, as H.264 requires. The frame itself is not changed.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, _MAX_SIDE_PX / max(height, width))
    size = max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)
    small: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return draw(small, scaled(detections, size[0] / width, size[1] / height))

"""Small versions of images."""

from __future__ import annotations

import cv2
import numpy as np

from serve_app.images.drawing import encode_jpeg


def thumbnail(jpeg: bytes, max_side_px: int) -> bytes:
    """Return a JPEG of our own whose longer side has at most ``max_side_px`` pixels. Smaller images stay as they are."""
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    height_px, width_px = pixels.shape[:2]
    scale = max_side_px / max(height_px, width_px)
    if scale >= 1:
        return jpeg
    size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    return encode_jpeg(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))

"""Small versions of images."""

from __future__ import annotations

import cv2

from serve_app.images.drawing import encode_jpeg
from serve_app.images.opencv import decode_with_opencv


def thumbnail(jpeg: bytes, max_side_px: int) -> bytes:
    """Return a JPEG whose longer side has at most ``max_side_px`` pixels. A JPEG that is small enough is not changed.

    ``jpeg`` must come from our own encoder, because its size is not limited here.
    """
    pixels = decode_with_opencv(jpeg)
    height_px, width_px = pixels.shape[:2]
    scale = max_side_px / max(height_px, width_px)
    if scale >= 1:
        return jpeg
    size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    return encode_jpeg(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))

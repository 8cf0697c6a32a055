"""Decode files with OpenCV after their structure was checked. OpenCV's errors never leave this module."""

from __future__ import annotations

import cv2
import numpy as np

from serve_app.errors import Undecodable
from serve_app.images.orientation import UPRIGHT, apply
from serve_app.types import Pixels

# The client learns what is wrong with an image from our error. libtiff would also log one line for each damaged row
# of a fax.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# OpenCV misses an orientation that has a prefix and applies that of some TIFFs twice, so we apply it ourselves.
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def decode_with_opencv(data: bytes | memoryview, orientation: int = UPRIGHT, flags: int = _COLOUR) -> Pixels:
    """Return the image upright. Raise Undecodable on failure."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as exc:
        raise Undecodable("the image is corrupt or of an unsupported kind") from exc
    if pixels is None:
        raise Undecodable("the image is truncated, corrupt or of an unsupported kind")
    return apply(pixels, orientation)

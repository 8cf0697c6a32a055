"""Decode files with OpenCV. Callers check the structure of a file first. OpenCV's errors never leave this module."""

from __future__ import annotations

import cv2
import numpy as np

from serve_app.errors import Undecodable
from serve_app.images.orientation import UPRIGHT, apply
from serve_app.types import Pixels

# We silence OpenCV's log, because our error already tells the client what is wrong with an image. Otherwise, OpenCV's
# library for TIFF, libtiff, would write a line for each damaged row of a fax.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# OpenCV misses the orientation in EXIF data that begin with a prefix (see ``orientation.of_exif``), and applies the
# orientation of some TIFFs twice. So we apply orientations ourselves.
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

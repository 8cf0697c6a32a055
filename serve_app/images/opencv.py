"""OpenCV as a decoder of files that have been looked through. Its errors end here."""

from __future__ import annotations

import cv2
import numpy as np

from serve_app.errors import Undecodable
from serve_app.images.orientation import UPRIGHT, turned
from serve_app.types import Pixels

# What is wrong with a picture, its client is told. Of a damaged fax, libtiff would also write a line a row.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# OpenCV reads no orientation behind a prefix, and turns some TIFFs twice: the orientation is ours.
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def decoded(data: bytes | memoryview, orientation: int = UPRIGHT, flags: int = _COLOUR) -> Pixels:
    """Return the picture upright. Raises Undecodable."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as exc:
        raise Undecodable("the picture is corrupt, or of a variant that is not read") from exc
    if pixels is None:
        raise Undecodable("the picture is truncated, corrupt or of a variant that is not read")
    return turned(pixels, orientation)

"""Encoded bytes -> pixels, within limits. A foreign decoder's errors end here."""

from __future__ import annotations

import cv2
import numpy as np

from serve_app.errors import Malformed, Undecodable
from serve_app.images.formats import plain
from serve_app.types import Pixels

# What is wrong with a picture, its client is told. Of a damaged fax, libtiff would also write a line a row.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(data: bytes, max_pixels: int) -> Pixels:
    """The picture as a viewer shows it: EXIF orientation applied, 8 bits, BGR, alpha dropped.

    The size is read from the header and held against ``max_pixels`` before any pixel is decoded.
    Raises Malformed (no bytes), NotAnImage, TooLarge, Undecodable.
    """
    if not data:
        raise Malformed("the picture is empty: no bytes were sent")
    try:
        pixels = cv2.imdecode(np.frombuffer(plain(data, max_pixels), np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise Undecodable("the picture is corrupt") from exc
    if pixels is None:
        raise Undecodable("the picture is truncated, corrupt or of a variant that is not read")
    return pixels  # type: ignore[no-any-return]

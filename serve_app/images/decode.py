"""Decode image files within limits on their size and cost.

Exceptions of third-party decoders never leave this package.
"""

from __future__ import annotations

import struct

from serve_app.errors import Malformed, NotAnImage, Undecodable
from serve_app.images import formats
from serve_app.types import Pixels


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Return the image as a viewer shows it: EXIF orientation applied, 8 bits, BGR, without alpha.

    The size in the header is checked against ``max_pixels`` before any pixel is decoded.
    Raise Malformed for empty data, NotAnImage for an unsupported format, TooLarge above ``max_pixels``, and Undecodable
    for any other failure.
    """
    if not data:
        raise Malformed("the image is empty: no bytes were sent")
    read = formats.reader(data)
    if read is None:
        raise NotAnImage(f"{formats.description(data)} send {formats.READ}")
    try:
        return read(data, max_pixels)
    except (struct.error, IndexError) as exc:
        raise Undecodable("the image's header is truncated") from exc

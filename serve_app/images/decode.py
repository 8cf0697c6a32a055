"""Decode image files within limits on their size and cost.

Exceptions of third-party decoders never leave this package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import Malformed, NotAnImage, Undecodable
from serve_app.images import formats, jpeg
from serve_app.images.reduced import MARGIN, Reduced
from serve_app.types import InputShape, Pixels


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Return the image as a viewer shows it: EXIF orientation applied, 8 bits, BGR, without alpha.

    The size in the header is checked against ``max_pixels`` before any pixel is decoded.
    Raise Malformed for empty data, NotAnImage for an unsupported format, TooLarge above ``max_pixels``, and Undecodable
    for any other failure.
    """
    with _truncated_headers():
        return _reader(data)(data, max_pixels)


def decode_reduced(data: bytes, max_pixels: int, shape: InputShape, margin: float = MARGIN) -> Reduced:
    """Return the image, reduced if it is a JPEG that is far larger than a model input of this shape.

    The image is reduced to no less than ``margin`` times the size that it has in the model input. Raise the errors of
    ``decode``.
    """
    with _truncated_headers():
        read = _reader(data)
        if read is jpeg.read:
            return jpeg.read_reduced(data, max_pixels, shape, margin)
        return Reduced(read(data, max_pixels))


def _reader(data: bytes) -> formats.Reader:
    if not data:
        raise Malformed("the image is empty: no bytes were sent")
    read = formats.reader(data)
    if read is None:
        raise NotAnImage(f"{formats.description(data)} send {formats.READ}")
    return read


@contextmanager
def _truncated_headers() -> Iterator[None]:
    """Raise Undecodable for the errors of readers that look beyond the end of the data."""
    try:
        yield
    except (struct.error, IndexError) as exc:
        raise Undecodable("the image's header is truncated") from exc

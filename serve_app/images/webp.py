"""Decode the first image of a WebP file (RFC 9649), and apply its orientation.

The decoder gets only the bitstream. Given the whole file, libwebp would read past the end of a truncated bitstream into
the following chunks. The separate alpha chunk of a lossy image is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from serve_app.errors import Undecodable
from serve_app.images import orientation
from serve_app.images.limits import MAX_PARTS, check_size, unreadable_header
from serve_app.images.opencv import decode_with_opencv
from serve_app.types import Pixels

_EXTENDED, _FRAME, _PICTURES = b"VP8X", b"ANMF", (b"VP8 ", b"VP8L")
_HAS_XMP, _HAS_EXIF, _IS_ANIMATED = 0x04, 0x08, 0x02


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the image, or the first frame of an animation. Raise TooLarge or Undecodable on failure."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if data[12:16] != _EXTENDED:
        return _still(data, 12, end, None, max_pixels)
    flags = data[20]
    width, height = _number(data, 24) + 1, _number(data, 27) + 1
    check_size(width, height, max_pixels)
    exif = xmp = None
    frame = None
    for kind, start, stop in _chunks(data, 12, end):
        if kind == _FRAME and frame is None:
            frame = start, stop
        elif kind == b"EXIF" and flags & _HAS_EXIF and exif is None:
            exif = data[start:stop]
        elif kind == b"XMP " and flags & _HAS_XMP and xmp is None:
            xmp = data[start:stop]
    orientation_tag = orientation.select(exif, xmp)
    if not flags & _IS_ANIMATED:
        return orientation.apply(_still(data, 12, end, (width, height), max_pixels), orientation_tag)
    if frame is None:
        raise unreadable_header()
    start, stop = frame
    left, top = 2 * _number(data, start), 2 * _number(data, start + 3)
    frame_width, frame_height = _number(data, start + 6) + 1, _number(data, start + 9) + 1
    if left + frame_width > width or top + frame_height > height:
        raise unreadable_header()
    frame_pixels = _still(data, start + 16, stop, (frame_width, frame_height), max_pixels)
    if frame_pixels.shape[:2] == (height, width):
        return orientation.apply(frame_pixels, orientation_tag)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top : top + frame_height, left : left + frame_width] = frame_pixels
    return orientation.apply(pixels, orientation_tag)


def _still(data: bytes, start: int, end: int, size: tuple[int, int] | None, max_pixels: int) -> Pixels:
    """Return the image between ``start`` and ``end``.

    Raise Undecodable when there is no image, when there are several, or when the image's size differs from ``size``. A
    ``size`` of None allows any size.
    """
    found = [chunk for chunk in _chunks(data, start, end) if chunk[0] in _PICTURES]
    if len(found) != 1:
        raise unreadable_header()
    kind, at, stop = found[0]
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, at + 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, at + 6))
    check_size(width, height, max_pixels)
    if size is not None and size != (width, height):
        raise Undecodable("the image's size differs from the size in its header")
    body = data[at:stop] + b"\0" * ((stop - at) % 2)
    return decode_with_opencv(
        b"".join((struct.pack("<4sI4s4sI", b"RIFF", 12 + len(body), b"WEBP", kind, stop - at), body))
    )


def _chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk and the start and end of its body. Raise Undecodable when a chunk is truncated.

    A truncated file is refused even when its pixels are complete, because the orientation may be in the missing part.
    """
    for _ in range(MAX_PARTS):
        if at >= end - 1:
            return
        if at + 8 > len(data):
            raise Undecodable("the image is truncated")
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data):
            raise Undecodable("the image is truncated")
        yield kind, at + 8, at + 8 + length
        at += 8 + length + length % 2
    raise Undecodable("the image has too many chunks")


def _number(data: bytes, at: int) -> int:
    """Return a little-endian number of three bytes."""
    return int.from_bytes(data[at : at + 3], "little")

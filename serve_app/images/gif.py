"""Decode the first image of a GIF (89a) with FFmpeg, through PyAV."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from serve_app.errors import Undecodable
from serve_app.images.ffmpeg import decode_with_ffmpeg, plane_rows
from serve_app.images.limits import MAX_PARTS, check_size, unsupported
from serve_app.types import Pixels

_EXTENSION, _IMAGE_DESCRIPTOR = 0x21, 0x2C
_TERMINATOR = b"\x3b"


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the GIF's logical screen with the first image drawn on it. Raise TooLarge or Undecodable on failure."""
    data = data.removesuffix(_TERMINATOR) + b"\0" + _TERMINATOR  # some writers leave out the last block's terminator
    picture = _first_picture(data)
    left, top, own_width, own_height = struct.unpack_from("<4H", data, picture.at + 1)
    screen_width, screen_height = struct.unpack_from("<HH", data, 6)
    width, height = max(screen_width, left + own_width), max(screen_height, top + own_height)
    check_size(width, height, max_pixels)
    one_picture = b"".join((data[:6], struct.pack("<HHBBB", width, height, 0, 0, 0), picture.data, _TERMINATOR))
    frame = decode_with_ffmpeg("gif", None, one_picture, width, height)
    rows = plane_rows(frame.planes[0])[:, : 4 * width].reshape(height, width, 4)
    decoded = rows[top : top + own_height, left : left + own_width]
    if not decoded[:, :, 3].all():  # FFmpeg leaves pixels transparent when their data are missing
        raise Undecodable("the image is truncated or corrupt")
    pixels = np.full((height, width, 3), picture.background, np.uint8)
    pixels[top : top + own_height, left : left + own_width] = decoded[:, :, :3]
    return pixels


@dataclass(frozen=True)
class _Picture:
    at: int  # offset of the image descriptor in the file
    data: bytes  # the image descriptor, a local colour table and the compressed pixels
    background: tuple[int, int, int]  # BGR


def _first_picture(data: bytes) -> _Picture:
    """Return the file's first image. Extensions are left out, because they can make a colour transparent.

    An image without a local colour table gets the global one. So ``read`` can pass FFmpeg a file without a global
    table. Only in such a file does FFmpeg leave pixels transparent when their data are missing.
    """
    flags, background, _ = struct.unpack_from("<3B", data, 10)
    at = 13 + _table_bytes(flags)
    table = data[13:at]
    red, green, blue = table[3 * background : 3 * background + 3].ljust(3, b"\0")[:3]
    for _ in range(MAX_PARTS):
        if at >= len(data):
            break
        if data[at] == 0:  # some writers repeat the terminator of a block
            at += 1
        elif data[at] == _EXTENSION:
            at = _after_blocks(data, at + 2)
        elif data[at] == _IMAGE_DESCRIPTOR:
            (own_flags,) = struct.unpack_from("<B", data, at + 9)
            start = at + 10 + _table_bytes(own_flags)
            end = _after_blocks(data, start + 1)
            if own_flags & 0x80:
                return _Picture(at, data[at:end], (blue, green, red))
            if not table:
                raise unsupported("a GIF without a colour table")
            own_flags = own_flags & 0x78 | 0x80 | flags & 7
            body = data[at : at + 9] + bytes((own_flags,)) + table + data[start:end]
            return _Picture(at, body, (blue, green, red))
        else:
            break
    raise Undecodable("the image is truncated or corrupt")


def _table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data):
        size = data[at]
        at += 1 + size
        if not size:
            return at
    raise Undecodable("the image is truncated")

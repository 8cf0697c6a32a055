"""Bytes that are no honest picture."""

from __future__ import annotations

import struct
import zlib


def png_of(width: int, height: int) -> bytes:
    """The start of a PNG that claims a size, up to its first pixel."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + struct.pack(">I", 8192) + b"IDAT"

"""Hostile image files for tests."""

from __future__ import annotations

import base64
import struct
import zlib


def png_of(width: int, height: int) -> bytes:
    """Return the start of a PNG whose header declares an image of this size. The PNG contains no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + struct.pack(">I", 8192) + b"IDAT"


# An animated PNG with a damaged chunk after its second frame. OpenCV 5.0.0 crashes on this file with SIGSEGV.
CRASHING_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAAAoCAIAAADBrGu+AAAACGFjVEwAAAACAAAAAPONk3AAAABJSURBVHic7c9BDQAgEMAw4Hn+"
    "BSOCR0OyKtj2zKyfHR3wqgGtAa0BrQGtAa0BrQGtAa0BrQGtAa0BrQGtAa0BrQGtAa0BrQHtAl1UAG69wx61AAAAGmZjVEwAAAAA"
    "AAAAQAAAACgAAAAAAAAAAAABAAoAAD4idVEAAABMZmRBVAAAAAF4nO3PQQ0AIBDAMED1yUcEj4ZkVbDtmVk/OzrgVQNaA1oDWgNa"
    "A1oDWgNaA1oDWgNaA1oDWgNaA1oDWgNaA1oDWgPaBTyZAbhQbRIFAAAAGmZjAAAAAQACAAAAQAAAACgAAAAAAAAAAAABAAoAANO0"
    "prgAAABNZmRBVAAAAAN4nO3PQQ0AIBDAMMC/2JOACB4Nyapg2zOzfnZ0wKsGtAa0BrQGtAa0BrQGtAa0BrQGtAa0BrQGtAa0BrQG"
    "tAa0BrQGtAukfwMgCpwZ8AAAAABJRU5ErkJggg=="
)

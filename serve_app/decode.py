"""Encoded bytes -> pixels, within limits. Foreign decoders' errors end here."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import UnidentifiedImageError
from PIL.Image import DecompressionBombError

# Bound now: when Ultralytics is imported it puts its own function in its place, which tries to install packages.
from PIL.Image import open as open_header

from serve_app.errors import Malformed, NotAnImage, TooLarge, Undecodable
from serve_app.types import Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_NAMES = "JPEG, PNG, WebP, BMP or TIFF"
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"}
_MAX_JPEG_SCANS = 100  # progressive encoders write about 10


def decode(data: bytes, max_pixels: int) -> Pixels:
    """The picture as a viewer shows it: EXIF orientation applied, 8 bits, BGR, alpha dropped.

    The size is read from the header and held against ``max_pixels`` before any pixel is decoded.
    Raises Malformed (no bytes), NotAnImage, TooLarge, Undecodable.
    """
    if not data:
        raise Malformed("the picture is empty: no bytes were sent")
    if not _has_signature(data):
        raise NotAnImage(f"these bytes are not a picture: send {_NAMES}")
    _check_header(data, max_pixels)
    if data.startswith(_PNG):
        data = _plain_png(data)
    elif data.startswith(_JPEG) and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise Undecodable("the picture has too many scans")  # each costs as much as a whole picture
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise Undecodable("the picture is corrupt") from exc
    if pixels is None:
        raise Undecodable("the picture is truncated, corrupt or of a variant that is not read")
    return pixels  # type: ignore[no-any-return]


def _check_header(data: bytes, max_pixels: int) -> None:
    try:
        with open_header(io.BytesIO(data), formats=FORMATS) as header:
            width, height = header.size
    except DecompressionBombError as exc:
        raise TooLarge(f"the picture has more than {max_pixels / 1e6:g} megapixels") from exc
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, OverflowError) as exc:
        raise Undecodable("the picture's header is truncated, corrupt or of a variant that is not read") from exc
    if width * height > max_pixels:
        megapixels = width * height / 1e6
        raise TooLarge(f"the picture has {megapixels:.1f} megapixels; the limit is {max_pixels / 1e6:g}")


def _has_signature(data: bytes) -> bool:
    return data.startswith((_JPEG, _PNG, b"BM", b"II*\0", b"MM\0*")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _plain_png(data: bytes) -> bytes:
    """The PNG with the chunks that make its one picture, each of the length it claims.

    OpenCV 5.0.0 crashes on damaged animation chunks, allocates what a chunk's length claims, and libpng inflates
    compressed texts after the pixels without a bound.
    """
    chunks = [data[:8]]
    start = 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        if end > len(data):
            break
        if kind in _PNG_CHUNKS:
            chunks.append(data[start:end])
        if kind == b"IEND":
            return b"".join(chunks)
        start = end
    raise Undecodable("the picture is truncated or corrupt")

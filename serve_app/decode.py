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


def decode(data: bytes, max_pixels: int) -> Pixels:
    """The picture as a viewer shows it: EXIF orientation applied, 8 bits, BGR, alpha dropped.

    The size is read from the header and held against ``max_pixels`` before any pixel is decoded.
    Raises Malformed (no bytes), NotAnImage, TooLarge, Undecodable.
    """
    if not data:
        raise Malformed("the picture is empty: no bytes were sent")
    _check_header(data, max_pixels)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise Undecodable("the picture is corrupt") from exc
    if pixels is None:
        raise Undecodable("the picture is truncated or corrupt")
    return pixels  # type: ignore[no-any-return]


def _check_header(data: bytes, max_pixels: int) -> None:
    if not _has_signature(data):
        raise NotAnImage(f"these bytes are not a picture: send {_NAMES}")
    try:
        with open_header(io.BytesIO(data), formats=FORMATS) as header:
            width, height = header.size
    except DecompressionBombError as exc:
        raise TooLarge(f"the picture has more than {max_pixels / 1e6:g} megapixels") from exc
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, OverflowError) as exc:
        raise Undecodable("the picture's header is truncated or corrupt") from exc
    if width * height > max_pixels:
        megapixels = width * height / 1e6
        raise TooLarge(f"the picture has {megapixels:.1f} megapixels; the limit is {max_pixels / 1e6:g}")


def _has_signature(data: bytes) -> bool:
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")) or (
        data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    )

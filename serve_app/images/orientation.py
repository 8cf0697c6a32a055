"""Find an image's orientation in its metadata, and turn the image upright.

Orientations have the numbers of Exif 2.32, section 4.6.4 (tag 0x0112). For example, 1 means that the
image is upright, and 6 means that it needs a quarter turn clockwise.
"""

from __future__ import annotations

import re
import struct

import cv2
import numpy as np

from serve_app.types import Pixels

UPRIGHT = 1
_TAG = 0x0112
_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # the TIFF types BYTE, SHORT, LONG and their signed forms
_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II\0*": "<", b"MM*\0": ">"}  # some writers mix up the two byte orders
_PREFIX, _MAX_PREFIXES = b"Exif\0\0", 2
_XMP_TAG = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")


def of_exif(block: bytes) -> int | None:
    """Return the orientation in an EXIF block, or None when the block has no orientation or is damaged.

    The block consists of a TIFF header and a directory. Only JPEG specifies the prefix ``Exif\\0\\0``, but many writers
    add the prefix in other formats, too, and some add it twice.
    """
    for _ in range(_MAX_PREFIXES):
        block = block.removeprefix(_PREFIX)
    order = _ORDERS.get(block[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
    except struct.error:
        return None
    entries = block[start + 2 : start + 2 + 12 * count]
    for tag, kind, number, value in struct.iter_unpack(f"{order}HHI4s", entries[: len(entries) // 12 * 12]):
        if tag == _TAG and kind in _NUMBERS and number:
            layout = order + _NUMBERS[kind]
            if number * struct.calcsize(layout) <= len(value):
                return _valid_or_none(*struct.unpack_from(layout, value))
            # The numbers do not fit into the entry, so the entry holds their offset. We use only the first number.
            (offset,) = struct.unpack(f"{order}I", value)
            found = block[offset : offset + struct.calcsize(layout)]
            return _valid_or_none(*struct.unpack(layout, found)) if len(found) == struct.calcsize(layout) else None
    return None


def of_xmp(packet: bytes) -> int | None:
    """Return the orientation in an XMP packet, or None (XMP specification, part 2: tiff:Orientation)."""
    found = _XMP_TAG.search(packet)
    return int(found[1]) if found else None


def select(exif: bytes | None, xmp: bytes | None) -> int:
    """Return the EXIF orientation if there is one, else the XMP orientation, else upright."""
    return (exif and of_exif(exif)) or (xmp and of_xmp(xmp)) or UPRIGHT


def apply(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an Exif orientation to the pixels. Return a new array unless the image is already upright."""
    match orientation:
        case 2:
            return cv2.flip(pixels, 1)  # type: ignore[no-any-return]
        case 3:
            return cv2.rotate(pixels, cv2.ROTATE_180)  # type: ignore[no-any-return]
        case 4:
            return cv2.flip(pixels, 0)  # type: ignore[no-any-return]
        case 5:
            return cv2.transpose(pixels)  # type: ignore[no-any-return]
        case 6:
            return cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)  # type: ignore[no-any-return]
        case 7:
            return np.ascontiguousarray(cv2.rotate(pixels, cv2.ROTATE_180).transpose(1, 0, 2))
        case 8:
            return cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)  # type: ignore[no-any-return]
    return pixels


def swaps_sides(orientation: int) -> bool:
    """Return whether ``apply`` swaps the width and the height of an image."""
    return orientation >= 5


def _valid_or_none(value: int) -> int | None:
    return value if 1 <= value <= 8 else None

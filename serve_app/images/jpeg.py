"""Decode the first image of a JPEG file (ITU-T T.81), and ignore all data after it.

A motion photo has a video after its image, and an MPO file has further images. The limits on scans and segments
apply only to the first image.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import cv2

from serve_app.errors import Undecodable
from serve_app.images import orientation
from serve_app.images.limits import MAX_PARTS, check_size, unreadable_header, unsupported
from serve_app.images.opencv import decode_with_opencv
from serve_app.images.reduced import MARGIN, Reduced, choose_factor
from serve_app.types import InputShape, Pixels

# Markers are listed in table B.1. Within a scan, FF 00 is pixel data, and FF D0 to FF D7 restart the decoder.
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_MARKER_AFTER_SCAN = re.compile(rb"\xff(?![\0\xd0-\xd7\xff])")
_STANDALONE_MARKERS = {0x01, *range(0xD0, 0xD8)}  # markers without a segment
_FRAME_MARKERS = {
    0xC0,
    0xC1,
    0xC2,
    0xC3,
    0xC9,
    0xCA,
}  # baseline, extended, progressive and lossless frames, with Huffman or arithmetic coding
_UNSUPPORTED_FRAMES = {
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "a hierarchical JPEG"),
    0xCB: "a lossless JPEG with arithmetic coding",
    0xF7: "JPEG-LS",
}
_BETWEEN_SCANS = {
    0xC4,
    0xCC,
    *range(0xDA, 0xDE),
    *range(0xE0, 0xF0),
    0xFE,
}  # tables, scans, number of lines, restart intervals, application data and comments
_END_MARKER, _SCAN_MARKER, _APP1 = 0xD9, 0xDA, 0xE1
_LOSSLESS = 0xC3
_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
# For these flags, libjpeg computes fewer pixels from each block of 8 × 8.
_REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}
# Decoding one scan costs as much as decoding a whole image. Progressive encoders write about 10 scans per image.
_MAX_SCANS = 100
_EXIF, _XMP = b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class _Frame:
    """What the frame header (B.2.2) says about an image."""

    width_px: int  # as stored in the file, so before the orientation is applied
    height_px: int
    channels: int
    is_lossless: bool


@dataclass(frozen=True)
class _Picture:
    """The first image of a file."""

    data: bytes | memoryview
    frame: _Frame
    orientation: int


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the file's first image. Raise TooLarge or Undecodable on failure."""
    return _decode(_first_picture(data, max_pixels))


def read_reduced(data: bytes, max_pixels: int, shape: InputShape, margin: float = MARGIN) -> Reduced:
    """Return the file's first image, reduced as far as a model input of this shape allows: see ``choose_factor``.

    Raise the same errors as ``read``.
    """
    picture = _first_picture(data, max_pixels)
    stored = width_px, height_px = picture.frame.width_px, picture.frame.height_px
    if orientation.swaps_sides(picture.orientation):
        width_px, height_px = height_px, width_px
    # libjpeg cannot reduce a lossless image.
    factor = 1 if picture.frame.is_lossless else choose_factor(width_px, height_px, shape, margin)
    if factor == 1:
        return Reduced(_decode(picture))
    pixels = decode_with_opencv(picture.data, flags=_REDUCED[factor])
    if pixels.shape[1::-1] != tuple(-(-side // factor) for side in stored):
        raise Undecodable("the image's size differs from the size in its header")
    return Reduced(pixels, factor, picture.orientation, width_px, height_px)


def _decode(picture: _Picture) -> Pixels:
    if picture.frame.is_lossless and picture.frame.channels == 1:  # libjpeg cannot convert such an image to colour
        return cv2.cvtColor(decode_with_opencv(picture.data, picture.orientation, _GREY), cv2.COLOR_GRAY2BGR)  # type: ignore[no-any-return]
    return decode_with_opencv(picture.data, picture.orientation)


def _first_picture(data: bytes, max_pixels: int) -> _Picture:
    """Check the segments of the first image. Return the image without the data that follow it."""
    at, scans = 2, 0
    frame: _Frame | None = None
    exif: list[bytes] = []
    xmp: list[bytes] = []
    for _ in range(MAX_PARTS):
        found = (_MARKER_AFTER_SCAN if scans else _MARKER).search(data, at)
        if found is None:
            if frame is None or not scans:
                break
            # Without an end marker, only the decoder can tell whether all pixels are there.
            return _Picture(data, frame, orientation.select(b"".join(exif), b"".join(xmp)))
        at = found.start() + 2
        marker = data[at - 1] if at <= len(data) else _END_MARKER
        if marker in _STANDALONE_MARKERS:
            continue
        if marker == _END_MARKER:
            if frame is None or not scans:
                break
            first_picture = data if at == len(data) else memoryview(data)[:at]
            return _Picture(first_picture, frame, orientation.select(b"".join(exif), b"".join(xmp)))
        (length,) = struct.unpack_from(">H", data, at)
        if scans and marker not in _BETWEEN_SCANS:
            raise Undecodable("the image is corrupt")
        if marker == _SCAN_MARKER:
            if frame is None or length != 6 + 2 * data[at + 2]:
                break
            scans += 1
            if scans > _MAX_SCANS:
                raise Undecodable("the image has too many scans")
        elif marker in _FRAME_MARKERS:
            frame = _read_frame(data, at, max_pixels)
        elif marker in _UNSUPPORTED_FRAMES:
            raise unsupported(_UNSUPPORTED_FRAMES[marker])
        elif marker == _APP1:
            segment = data[at + 2 : at + length]
            if segment.startswith(_EXIF):  # long EXIF data continue in the next segment
                exif.append(segment[len(_EXIF) + 1 :] if exif else segment)
            elif segment.startswith(_XMP):
                xmp.append(segment)
        at += length
    raise unreadable_header()


def _read_frame(data: bytes, at: int, max_pixels: int) -> _Frame:
    """Return what a frame header says. Check the image's size, its depth and the number of its channels."""
    depth, height, width, channels = struct.unpack_from(">BHHB", data, at + 2)
    if not height:
        raise unsupported("a JPEG that gives its height after its pixels")
    check_size(width, height, max_pixels)
    if depth != 8:
        raise unsupported(f"a JPEG with {depth} bits per sample")
    if channels not in (1, 3, 4):
        raise unsupported(f"a JPEG with {channels} channels")
    return _Frame(width, height, channels, data[at - 1] == _LOSSLESS)

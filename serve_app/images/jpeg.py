"""Decode the first image of a JPEG file (ITU-T T.81), and ignore all data after it.

A motion photo has a video after its image, and an MPO file has further images. The limits on scans and segments
apply only to the first image.
"""

from __future__ import annotations

import re
import struct

import cv2

from serve_app.errors import Undecodable
from serve_app.images import orientation
from serve_app.images.limits import MAX_PARTS, check_size, unreadable_header, unsupported
from serve_app.images.opencv import decode_with_opencv
from serve_app.types import Pixels

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
# Decoding one scan costs as much as decoding a whole image. Progressive encoders write about 10 scans per image.
_MAX_SCANS = 100
_EXIF, _XMP = b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the file's first image. Raise TooLarge or Undecodable on failure."""
    end, orientation_tag, is_lossless_grey = _first_picture(data, max_pixels)
    first_picture = data if end == len(data) else memoryview(data)[:end]
    if is_lossless_grey:  # libjpeg cannot convert such an image to colour
        return cv2.cvtColor(decode_with_opencv(first_picture, orientation_tag, _GREY), cv2.COLOR_GRAY2BGR)  # type: ignore[no-any-return]
    return decode_with_opencv(first_picture, orientation_tag)


def _first_picture(data: bytes, max_pixels: int) -> tuple[int, int, bool]:
    """Return the end of the first image, its orientation, and whether it is a lossless grey image."""
    at, scans, has_frame, is_lossless_grey = 2, 0, False, False
    exif: list[bytes] = []
    xmp: list[bytes] = []
    for _ in range(MAX_PARTS):
        found = (_MARKER_AFTER_SCAN if scans else _MARKER).search(data, at)
        if found is None:
            if not scans:
                break
            # Without an end marker, only the decoder can tell whether all pixels are there.
            return len(data), orientation.select(b"".join(exif), b"".join(xmp)), is_lossless_grey
        at = found.start() + 2
        marker = data[at - 1] if at <= len(data) else _END_MARKER
        if marker in _STANDALONE_MARKERS:
            continue
        if marker == _END_MARKER:
            if not scans:
                break
            return at, orientation.select(b"".join(exif), b"".join(xmp)), is_lossless_grey
        (length,) = struct.unpack_from(">H", data, at)
        if scans and marker not in _BETWEEN_SCANS:
            raise Undecodable("the image is corrupt")
        if marker == _SCAN_MARKER:
            if not has_frame or length != 6 + 2 * data[at + 2]:
                break
            scans += 1
            if scans > _MAX_SCANS:
                raise Undecodable("the image has too many scans")
        elif marker in _FRAME_MARKERS:
            channels = _check_frame(data, at, max_pixels)
            has_frame, is_lossless_grey = True, marker == _LOSSLESS and channels == 1
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


def _check_frame(data: bytes, at: int, max_pixels: int) -> int:
    """Check the image's size and depth, and return how many channels it has."""
    channels: int
    depth, height, width, channels = struct.unpack_from(">BHHB", data, at + 2)
    if not height:
        raise unsupported("a JPEG that gives its height after its pixels")
    check_size(width, height, max_pixels)
    if depth != 8:
        raise unsupported(f"a JPEG with {depth} bits per sample")
    if channels not in (1, 3, 4):
        raise unsupported(f"a JPEG with {channels} channels")
    return channels

"""Splitting of MJPEG streams into JPEGs. The boundaries in a stream may be right, wrong or missing."""

from __future__ import annotations

import functools
import itertools
import re
import struct
from collections.abc import Callable, Iterator

from serve_app.errors import SourceError
from serve_app.images.decode import decode
from serve_app.types import Position
from serve_app.video.failures import too_large
from serve_app.video.pictures import Video
from serve_app.video.source import Source
from serve_app.video.timestamps import USUAL_FPS

MAX_PICTURE_BYTES = 32 << 20
_START = b"\xff\xd8\xff"
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff+([^\xff\x00])", re.DOTALL)
_SCAN_ENDS = re.compile(rb"\xff+([^\xff\x00\xd0-\xd7])", re.DOTALL)  # any marker except a restart marker
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # frame headers, which contain the size
_MARKER_BYTE, _START_MARKER, _END_MARKER, _SCAN_MARKER = 0xFF, 0xD8, 0xD9, 0xDA
_MPF_MARKER, _MPF = 0xE2, b"MPF\0"  # the Multi-Picture Format, in which further images belong to the first one
_MPF_ENTRIES = 0xB002
_LENGTH = re.compile(rb"content-length:[ \t]*(\d{1,9})[ \t]*\r?\n", re.IGNORECASE)
_MIN_FRAMES = 3
_MAX_HEADER_BYTES = 4096  # for the headers of one part of a multipart body
_MAX_PIXELS = 1 << 32


class EndlessJpeg(Exception):
    """An image has more bytes than the limit."""


class JpegTooLarge(Exception):
    """An image has more pixels than the limit."""


def jpegs_of(
    source: Source, read: Callable[[], bytes], reset_timeout: Callable[[], None], max_pixels: int
) -> Iterator[bytes]:
    """Yield a source's JPEGs as they arrive, and call ``reset_timeout`` for each.

    Raise SourceError if the source sends no JPEG, or a JPEG that is too large.
    """
    count = 0
    try:
        for jpeg in split_jpegs(read, max_pixels):
            count += 1
            reset_timeout()
            yield jpeg
    except JpegTooLarge:
        raise too_large(source, max_pixels) from None
    except EndlessJpeg:
        raise SourceError(f"{source.name} sends a JPEG of more than {MAX_PICTURE_BYTES >> 20} MiB") from None
    if not count:
        raise SourceError(f"{source.name} sends no JPEG, so it cannot be read as video")


def video_of(jpegs: Iterator[bytes], max_pixels: int, *, has_end: bool = False, after: Position | None = None) -> Video:
    """Return a video of the JPEGs after the position ``after``.

    A JPEG is decoded only when its pixels are requested.
    """
    pictures = ((functools.partial(decode, jpeg, max_pixels), Position(index)) for index, jpeg in enumerate(jpegs))
    return Video(
        (picture for picture in pictures if after is None or picture[1].index > after.index),
        fps=USUAL_FPS if has_end else None,
        has_end=has_end,
        comes_in_bursts=has_end,
    )


def is_mjpeg(data: bytes) -> bool:
    """Return whether the bytes are a video.

    We assume a video if the bytes start with three JPEGs of equal size. Two JPEGs are not enough, because some cameras
    with two lenses append the second image to the first without declaring it. Multi-picture files are not videos,
    either.
    """
    pieces = iter([data])
    try:
        first = list(itertools.islice(split_jpegs(lambda: next(pieces, b"")), _MIN_FRAMES))
    except EndlessJpeg:
        return False
    return len(first) == _MIN_FRAMES and _MPF not in first[0] and len(set(map(_size_of, first))) == 1


def split_jpegs(read: Callable[[], bytes], max_pixels: int = _MAX_PIXELS) -> Iterator[bytes]:
    """Yield each JPEG as soon as it is complete.

    ``read`` returns the bytes that have arrived, and ``b""`` at the end. Everything between two JPEGs is skipped,
    including boundaries, because the boundaries of many cameras differ from the declared one.

    If the headers before a JPEG declare a ``Content-Length``, and the bytes up to this length end with an end marker,
    the JPEG ends there. It may then contain earlier end markers, for example if it consists of two images. A
    multi-picture file (MPO) ends after the last image in its index. Any other JPEG ends at its first end marker, or
    where the next JPEG starts.

    Raise EndlessJpeg if a JPEG has too many bytes, and JpegTooLarge if it has too many pixels.
    """
    buffer = bytearray()
    has_ended = False

    def more() -> bool:
        nonlocal has_ended
        data = b"" if has_ended else read()
        has_ended = has_ended or not data
        buffer.extend(data)
        if len(buffer) > MAX_PICTURE_BYTES:
            raise EndlessJpeg
        return not has_ended

    while True:
        start = buffer.find(_START)
        if start < 0:
            del buffer[:-_MAX_HEADER_BYTES]
            if not more():
                return
            continue
        lengths = _LENGTH.findall(buffer, max(0, start - _MAX_HEADER_BYTES), start)
        del buffer[:start]
        end = _end_of_picture(buffer, more, max_pixels, int(lengths[-1]) if lengths else 0)
        if end is None:
            return
        if end > 0:
            yield bytes(buffer[:end])
        del buffer[: max(end, len(_START))]


def _end_of_picture(
    buffer: bytearray, more: Callable[[], bool], max_pixels: int, length: int = 0, start: int = 0
) -> int | None:
    """Return the offset of the end of the image at ``start``.

    If further images belong to this image, return the end of the last one. Return 0 for a corrupt
    image, and None if the response ends within the image.
    """
    at, last_at, has_scan = start + 2, 0, False
    while True:
        if not has_scan and at < len(buffer) and buffer[at] != _MARKER_BYTE:
            return 0
        found = (_SCAN_ENDS if has_scan else _MARKER).search(buffer, at)
        if found is None or (found.end() + 9 > len(buffer) and found[1][0] not in (_START_MARKER, _END_MARKER)):
            at = max(at, len(buffer) - 1) if found is None and has_scan else at
            if not more():
                return None
            continue
        marker = found[1][0]
        if marker == _END_MARKER:
            return found.end()
        if marker == _START_MARKER:  # the next image starts, so this one has no end marker
            return found.start() if has_scan else 0
        at = found.end()
        if marker in _STANDALONE:
            continue
        if marker in _FRAMES:
            height_px, width_px = struct.unpack_from(">HH", buffer, at + 3)
            if height_px * width_px > max_pixels:
                raise JpegTooLarge
        size = struct.unpack_from(">H", buffer, at)[0]
        if marker == _MPF_MARKER and not (has_scan or start) and buffer[at + 2 : at + 6] == _MPF:
            while len(buffer) < at + size:
                if not more():
                    return None
            last_at = at + 6 + _last_mpf_image(bytes(buffer[at + 6 : at + size]))
        at += size
        if marker == _SCAN_MARKER:
            has_scan = True
            if length and _ends_at(buffer, more, length):
                return length
            if last_at and _begins_at(buffer, more, last_at):
                end = _end_of_picture(buffer, more, max_pixels, start=last_at)
                if end:
                    return end


def _ends_at(buffer: bytearray, more: Callable[[], bool], length: int) -> bool:
    """Return whether an image really ends after the ``length`` bytes that its header declares."""
    if length > MAX_PICTURE_BYTES // 2:
        return False
    while len(buffer) < length:
        if not more():
            return False
    return bytes(buffer[:length]).rstrip(b"\0\r\n\t ").endswith(_END)


def _begins_at(buffer: bytearray, more: Callable[[], bool], place: int) -> bool:
    """Return whether another image starts at the offset ``place``."""
    if place > MAX_PICTURE_BYTES // 2:
        return False
    while len(buffer) < place + len(_START):
        if not more():
            return False
    return buffer.startswith(_START, place)


def _last_mpf_image(index: bytes) -> int:
    """Return the offset of the last image of a multi-picture file (CIPA DC-007, 5.2).

    The offset is relative to the start of ``index``, or 0 if the index is not valid. We ignore the image sizes in the
    index, because some cameras write wrong ones.
    """
    order = ">" if index.startswith(b"MM") else "<"
    try:
        (at,) = struct.unpack_from(order + "I", index, 4)
        (count,) = struct.unpack_from(order + "H", index, at)
        fields = [struct.unpack_from(order + "HHII", index, at + 2 + 12 * number) for number in range(count)]
    except struct.error:
        return 0
    entries = [index[start : start + size // 16 * 16] for tag, _, size, start in fields if tag == _MPF_ENTRIES]
    whole = [entry[: len(entry) // 16 * 16] for entry in entries]
    return max((place for entry in whole for _, _, place, *_ in struct.iter_unpack(order + "IIIHH", entry)), default=0)


def _size_of(jpeg: bytes) -> bytes:
    """Return the four bytes of a JPEG's header that contain its height and width."""
    at = 2
    while at + 9 <= len(jpeg):
        if jpeg[at + 1] in _FRAMES:
            return jpeg[at + 5 : at + 9]
        at += 1 if jpeg[at + 1] == _MARKER_BYTE else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return b""

"""JPEG after JPEG: the body of a camera's MJPEG stream, with boundaries, without, and with wrong ones."""

from __future__ import annotations

import functools
import itertools
import re
import struct
from collections.abc import Callable, Iterator

from serve_app.errors import SourceError
from serve_app.images.decode import decode
from serve_app.streams.capture.failures import too_large
from serve_app.streams.capture.pictures import Video
from serve_app.streams.capture.source import Source
from serve_app.streams.capture.timestamps import USUAL_FPS
from serve_app.types import Position

MAX_PICTURE_BYTES = 32 << 20
_START = b"\xff\xd8\xff"
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff+([^\xff\x00])", re.DOTALL)
_SCAN_ENDS = re.compile(rb"\xff+([^\xff\x00\xd0-\xd7])", re.DOTALL)  # what is no byte of the scan, nor a restart marker
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # their segment has the picture's size
_MARKER_BYTE, _START_MARKER, _END_MARKER, _SCAN_MARKER = 0xFF, 0xD8, 0xD9, 0xDA
_SEVERAL_MARKER, _SEVERAL = 0xE2, b"MPF\0"  # of a picture that others belong to
_SEVERAL_ENTRIES = 0xB002
_LENGTH = re.compile(rb"content-length:[ \t]*(\d{1,9})[ \t]*\r?\n", re.IGNORECASE)
_FEWEST_FRAMES = 3
_MAX_HEADER_BYTES = 4096  # of a part
_MAX_PIXELS = 1 << 32


class EndlessJpeg(Exception):
    """A picture has more bytes than it may have."""


class JpegTooLarge(Exception):
    """A picture has more pixels than it may have."""


def jpegs_of(source: Source, read: Callable[[], bytes], renew: Callable[[], None], max_pixels: int) -> Iterator[bytes]:
    """Yield a camera's pictures, as they come; ``renew`` is called for each. Raises SourceError."""
    count = 0
    try:
        for jpeg in split_jpegs(read, max_pixels):
            count += 1
            renew()
            yield jpeg
    except JpegTooLarge:
        raise too_large(source, max_pixels) from None
    except EndlessJpeg:
        raise SourceError(f"{source.name} sends a JPEG of more than {MAX_PICTURE_BYTES >> 20} MiB") from None
    if not count:
        raise SourceError(f"{source.name} sends no JPEG, and so cannot be read as video")


def video_of(jpegs: Iterator[bytes], max_pixels: int, *, has_end: bool = False, after: Position | None = None) -> Video:
    """Return them as a video, which continues after ``after``. They are decoded when they are asked for."""
    pictures = ((functools.partial(decode, jpeg, max_pixels), Position(index)) for index, jpeg in enumerate(jpegs))
    return Video(
        (picture for picture in pictures if after is None or picture[1].index > after.index),
        fps=USUAL_FPS if has_end else None,
        has_end=has_end,
        comes_in_bursts=has_end,
    )


def are_frames(data: bytes) -> bool:
    """Return whether the bytes are JPEG after JPEG of one size, not a picture with what belongs to it: of two lenses,
    some cameras put the second one's picture behind the first one's, and do not say so."""
    pieces = iter([data])
    try:
        first = list(itertools.islice(split_jpegs(lambda: next(pieces, b"")), _FEWEST_FRAMES))
    except EndlessJpeg:
        return False
    return len(first) == _FEWEST_FRAMES and _SEVERAL not in first[0] and len(set(map(_size_of, first))) == 1


def split_jpegs(read: Callable[[], bytes], max_pixels: int = _MAX_PIXELS) -> Iterator[bytes]:
    """Yield each picture as soon as it is there. ``read`` returns what has come, and nothing at the end.

    What lies between pictures is passed over, boundaries among it: too many cameras declare others than they write.
    A part's ``Content-Length`` holds where a picture ends there, so that what lies behind it in the part belongs to it;
    several pictures in one (MPO: of two lenses, or one and how bright it can be shown) that say where they are stay
    together, too. Else a picture ends where its last marker says, or where the next one starts.

    Raises EndlessJpeg, JpegTooLarge.
    """
    buffer = bytearray()
    is_over = False

    def more() -> bool:
        nonlocal is_over
        data = b"" if is_over else read()
        is_over = is_over or not data
        buffer.extend(data)
        if len(buffer) > MAX_PICTURE_BYTES:
            raise EndlessJpeg
        return not is_over

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
    """Return where the picture that begins at ``start`` ends, with all that belongs to it: 0 for one that is broken,
    None for one that breaks off with the body."""
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
        if marker == _START_MARKER:  # the next picture's, of a camera that writes no last marker, or breaks off
            return found.start() if has_scan else 0
        at = found.end()
        if marker in _STANDALONE:
            continue
        if marker in _FRAMES:
            height_px, width_px = struct.unpack_from(">HH", buffer, at + 3)
            if height_px * width_px > max_pixels:
                raise JpegTooLarge
        size = struct.unpack_from(">H", buffer, at)[0]
        if marker == _SEVERAL_MARKER and not (has_scan or start) and buffer[at + 2 : at + 6] == _SEVERAL:
            while len(buffer) < at + size:
                if not more():
                    return None
            last_at = at + 6 + _last_of_several(bytes(buffer[at + 6 : at + size]))
        at += size
        if marker == _SCAN_MARKER:
            has_scan = True
            if length and _is_there(buffer, more, length):
                return length
            if last_at and _begins_at(buffer, more, last_at):
                end = _end_of_picture(buffer, more, max_pixels, start=last_at)
                if end:
                    return end


def _is_there(buffer: bytearray, more: Callable[[], bool], length: int) -> bool:
    """Return whether a picture of ``length`` bytes ends there, as its part's header says."""
    if length > MAX_PICTURE_BYTES // 2:
        return False
    while len(buffer) < length:
        if not more():
            return False
    return bytes(buffer[:length]).rstrip(b"\0\r\n\t ").endswith(_END)


def _begins_at(buffer: bytearray, more: Callable[[], bool], place: int) -> bool:
    """Return whether another picture begins there."""
    if place > MAX_PICTURE_BYTES // 2:
        return False
    while len(buffer) < place + len(_START):
        if not more():
            return False
    return buffer.startswith(_START, place)


def _last_of_several(index: bytes) -> int:
    """Return where the last of several pictures begins, from the index on: the CIPA's DC-007, 5.2. An index that is
    none says 0. Of the pictures' sizes, which are in it too, some writers' are wrong."""
    order = ">" if index.startswith(b"MM") else "<"
    try:
        (at,) = struct.unpack_from(order + "I", index, 4)
        (count,) = struct.unpack_from(order + "H", index, at)
        fields = [struct.unpack_from(order + "HHII", index, at + 2 + 12 * number) for number in range(count)]
    except struct.error:
        return 0
    entries = [index[start : start + size // 16 * 16] for tag, _, size, start in fields if tag == _SEVERAL_ENTRIES]
    whole = [entry[: len(entry) // 16 * 16] for entry in entries]
    return max((place for entry in whole for _, _, place, *_ in struct.iter_unpack(order + "IIIHH", entry)), default=0)


def _size_of(jpeg: bytes) -> bytes:
    """Its height and width, as they are written in it."""
    at = 2
    while at + 9 <= len(jpeg):
        if jpeg[at + 1] in _FRAMES:
            return jpeg[at + 5 : at + 9]
        at += 1 if jpeg[at + 1] == _MARKER_BYTE else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return b""

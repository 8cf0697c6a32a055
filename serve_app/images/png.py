"""PNG (third edition, 2025): its chunks that make its still picture, at a cost that its pixels explain."""

from __future__ import annotations

import struct
import zlib

from serve_app.errors import Undecodable
from serve_app.images import orientation
from serve_app.images.limits import MAX_PARTS, check_size, unread, variant
from serve_app.images.opencv import decoded
from serve_app.types import Pixels

_CHUNKS = (b"PLTE", b"tRNS")  # beside IHDR, IDAT and IEND; the first of each
_END = b"\0\0\0\0IEND\xaeB`\x82"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_MAX_RATIO = 1032  # of deflate: bytes from a byte
_UNCOUNTED_BYTES = 500_000_000  # a second's work
_STEP_BYTES = 1 << 18
_MAX_TEXT_BYTES = 1 << 18  # of a text that may name the orientation
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1", b"Raw profile type xmp")  # as ImageMagick writes them
_XMP = b"XML:com.adobe.xmp"
_NOTES = (*_PROFILES, _XMP)


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the still picture. Raises TooLarge, Undecodable.

    OpenCV 5.0.0 crashes on damaged animation chunks, and allocates what a chunk's length claims. libpng inflates
    compressed texts and left-over pixels without a bound, and writes a line about each chunk that comes twice.
    """
    kind, width, height, depth, colour, _, _, is_interlaced = struct.unpack_from(">4sIIBBBBB", data, 12)
    if kind == b"CgBI":
        raise variant("a PNG that was changed for iPhones (CgBI)")
    if kind != b"IHDR" or colour not in _CHANNELS:
        raise unread()
    check_size(width, height, max_pixels)
    parts, pixels, seen = [data[:33]], list[bytes](), set[bytes]()
    exif: bytes | None = None
    notes: dict[bytes, bytes] = {}
    at = 33
    for _ in range(MAX_PARTS):
        if _END.startswith(data[at : at + 12]):  # some writers leave it out, or its checksum
            row_bytes = 1 + (width * depth * _CHANNELS[colour] + 7) // 8
            _check_inflated(pixels, row_bytes * height * (2 if is_interlaced else 1))
            return decoded(b"".join((*parts, _END)), _turn(exif, notes))
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        body = slice(at + 8, end - 4)
        if kind == b"IDAT":
            pixels.append(data[body])
        elif kind == b"eXIf":
            exif = data[body]
        elif kind in _TEXTS:
            name, _, text = data[at + 8 : min(at + 8 + _MAX_TEXT_BYTES, end - 4)].partition(b"\0")
            if name in _NOTES and name not in notes:  # the first of each: so many are inflated
                notes[name] = _plain(kind, text)
        if kind == b"IDAT" or (kind in _CHUNKS and kind not in seen):
            seen.add(kind)
            parts.append(data[at:end])
        at = end
    raise Undecodable("the picture is truncated or corrupt")


def _turn(exif: bytes | None, notes: dict[bytes, bytes]) -> int:
    """Return the orientation that EXIF names, in its chunk or as a text, or else XMP."""
    profiles = [_profile(notes[name]) for name in _PROFILES if name in notes]
    blocks = [exif or b"", *profiles]
    named = next((block for block in blocks if orientation.of_exif(block)), None)
    return orientation.chosen(named, b"\n".join((notes.get(_XMP, b""), *profiles)))


def _plain(kind: bytes, text: bytes) -> bytes:
    """Return what a text chunk says behind its name, as far as it can be read."""
    is_compressed = kind == b"zTXt"
    if kind == b"iTXt":
        is_compressed = text[:1] == b"\1"
        text = text[1:2] + text[2:].split(b"\0", 2)[-1]  # behind a language and a translated name
    elif kind == b"tEXt":
        return text
    if not is_compressed:
        return text[1:]
    try:
        return zlib.decompressobj().decompress(text[1:], _MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _profile(text: bytes) -> bytes:
    """Return what ImageMagick wrote as text: a name and a length, each on a line, and hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""


def _check_inflated(pixels: list[bytes], expected_bytes: int) -> None:
    """Raises Undecodable where there is more than the picture takes, much enough to keep a decoder busy."""
    most_bytes = _MAX_RATIO * sum(map(len, pixels))
    if most_bytes <= 2 * expected_bytes or most_bytes <= _UNCOUNTED_BYTES:
        return
    inflater, inflated_bytes = zlib.decompressobj(), 0
    try:
        for part in pixels:
            while part and not inflater.eof:
                inflated_bytes += len(inflater.decompress(part, _STEP_BYTES))
                if inflated_bytes > expected_bytes + _STEP_BYTES:
                    raise Undecodable("the picture has more pixels than its header says")
                part = inflater.unconsumed_tail
    except zlib.error:
        pass  # a decoder says which pixels are left

"""Decode the still image of a PNG file (PNG specification, third edition, 2025).

Limits keep the cost proportional to the number of pixels.
"""

from __future__ import annotations

import struct
import zlib

from serve_app.errors import Undecodable
from serve_app.images import orientation
from serve_app.images.limits import MAX_PARTS, check_size, unreadable_header, unsupported
from serve_app.images.opencv import decode_with_opencv
from serve_app.types import Pixels

_CHUNKS = (b"PLTE", b"tRNS")  # OpenCV gets IHDR, every IDAT, IEND, and the first chunk of each of these kinds
_END = b"\0\0\0\0IEND\xaeB`\x82"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_MAX_RATIO = 1032  # one byte of deflate data inflates to at most this many bytes
_UNCHECKED_BYTES = 500_000_000  # inflating data to this many bytes takes about a second
_STEP_BYTES = 1 << 18
_MAX_TEXT_BYTES = 1 << 18  # limit for reading a text that may contain the orientation
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1", b"Raw profile type xmp")  # ImageMagick's names
_XMP = b"XML:com.adobe.xmp"
_NOTES = (*_PROFILES, _XMP)


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the still image. Raise TooLarge or Undecodable on failure.

    We pass OpenCV only the chunks that it needs. OpenCV 5.0.0 crashes on damaged animation chunks, and allocates as
    many bytes as a chunk claims to have. libpng inflates compressed texts and surplus pixels without a limit, and logs
    a line for each repeated chunk.
    """
    kind, width, height, depth, colour, _, _, is_interlaced = struct.unpack_from(">4sIIBBBBB", data, 12)
    if kind == b"CgBI":
        raise unsupported("a PNG that was optimised for iPhones (CgBI)")
    if kind != b"IHDR" or colour not in _CHANNELS:
        raise unreadable_header()
    check_size(width, height, max_pixels)
    parts, pixels, seen = [data[:33]], list[bytes](), set[bytes]()
    exif: bytes | None = None
    notes: dict[bytes, bytes] = {}
    at = 33
    for _ in range(MAX_PARTS):
        if _END.startswith(data[at : at + 12]):  # some writers leave out the end chunk or its checksum
            row_bytes = 1 + (width * depth * _CHANNELS[colour] + 7) // 8
            _check_inflated(pixels, row_bytes * height * (2 if is_interlaced else 1))
            return decode_with_opencv(b"".join((*parts, _END)), _orientation_tag(exif, notes))
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
            if name in _NOTES and name not in notes:  # skip repeated names, so that we inflate few texts
                notes[name] = _chunk_text(kind, text)
        if kind == b"IDAT" or (kind in _CHUNKS and kind not in seen):
            seen.add(kind)
            parts.append(data[at:end])
        at = end
    raise Undecodable("the image is truncated or corrupt")


def _orientation_tag(exif: bytes | None, notes: dict[bytes, bytes]) -> int:
    """Return the EXIF orientation from the eXIf chunk or a text chunk, or else the XMP orientation."""
    profiles = [_profile_bytes(notes[name]) for name in _PROFILES if name in notes]
    blocks = [exif or b"", *profiles]
    named = next((block for block in blocks if orientation.of_exif(block)), None)
    return orientation.select(named, b"\n".join((notes.get(_XMP, b""), *profiles)))


def _chunk_text(kind: bytes, text: bytes) -> bytes:
    """Return the text after the name in a text chunk, cut to ``_MAX_TEXT_BYTES``, or b"" when the text is damaged."""
    is_compressed = kind == b"zTXt"
    if kind == b"iTXt":
        is_compressed = text[:1] == b"\1"
        text = text[1:2] + text[2:].split(b"\0", 2)[-1]  # skip the language and the translated name
    elif kind == b"tEXt":
        return text
    if not is_compressed:
        return text[1:]
    try:
        return zlib.decompressobj().decompress(text[1:], _MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _profile_bytes(text: bytes) -> bytes:
    """Decode a profile in ImageMagick's format: a line with a name, a line with a length, and hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""


def _check_inflated(pixels: list[bytes], expected_bytes: int) -> None:
    """Raise Undecodable when the data inflate to more bytes than the image needs.

    We check the data only if they are large enough to inflate to more than ``_UNCHECKED_BYTES`` and to more than twice
    as many bytes as the image needs.
    """
    max_bytes = _MAX_RATIO * sum(map(len, pixels))
    if max_bytes <= 2 * expected_bytes or max_bytes <= _UNCHECKED_BYTES:
        return
    inflater, inflated_bytes = zlib.decompressobj(), 0
    try:
        for part in pixels:
            while part and not inflater.eof:
                inflated_bytes += len(inflater.decompress(part, _STEP_BYTES))
                if inflated_bytes > expected_bytes + _STEP_BYTES:
                    raise Undecodable("the image has more pixels than its header says")
                part = inflater.unconsumed_tail
    except zlib.error:
        pass  # the decoder reports corrupt data itself

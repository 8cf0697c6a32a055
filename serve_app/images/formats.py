"""A picture file as far as its pixels: how large it is, and no more in it than makes them.

It is read here since what reads headers for a living reads all that a file carries: Pillow 13 worked 75 s on the
colour profiles of one PNG of 32 MiB, and held 1.1 GB for the empty segments of a JPEG. Decoders do such things, too.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

from serve_app.errors import NotAnImage, TooLarge, Undecodable

_NAMES = "JPEG, PNG, WebP, BMP or TIFF"
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_PARTS = 65_536  # segments, chunks: a file of 32 MiB whose parts have 512 bytes

_JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a segment
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; Huffman's and arithmetic
_SCAN = 0xDA
_MAX_SCANS = 100  # each costs as much as a whole picture; progressive encoders write about 10

_CHUNKS = (b"PLTE", b"tRNS", b"eXIf")  # beside IHDR, IDAT and IEND; the first of each
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_MAX_RATIO = 1032  # of deflate: bytes from a byte
_UNCOUNTED_BYTES = 500_000_000  # a second's work
_STEP_BYTES = 1 << 18

_WIDTH, _HEIGHT, _COMPRESSION, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 259, 322, 323
_TIFF_TAGS = {  # of a picture's layout and colours
    _WIDTH, _HEIGHT, 258, _COMPRESSION, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, _TILE_WIDTH,
    _TILE_HEIGHT, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532,
}  # fmt: skip
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}  # none, fax, LZW, JPEG, deflate, PackBits
_SHORT, _LONG = 3, 4
_TILING = 2  # a picture's tiles may cover so many times what a picture may have


def plain(data: bytes, max_pixels: int) -> bytes:
    """The file with what makes its one picture, at a cost that its pixels explain.

    Raises NotAnImage, TooLarge, Undecodable. Whether its pixels are sound, only a decoder can tell.
    """
    read = _reader(data)
    if read is None:
        raise NotAnImage(f"these bytes are not a picture: send {_NAMES}")
    try:
        return read(data, max_pixels)
    except struct.error as exc:
        raise Undecodable("the picture's header is truncated") from exc


def _reader(data: bytes) -> Callable[[bytes, int], bytes] | None:
    if data.startswith(b"\xff\xd8\xff"):
        return _plain_jpeg
    if data.startswith(_PNG):
        return _plain_png
    if data.startswith((b"II*\0", b"MM\0*")):
        return _plain_tiff
    if data.startswith(b"BM"):
        return _plain_bmp
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _plain_webp
    return None


def _plain_jpeg(data: bytes, max_pixels: int) -> bytes:
    at = 2
    has_frame = False
    for _ in range(_MAX_PARTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            break
        marker, at = found[1][0], found.end()
        if marker in _ALONE:
            continue
        if marker == _SCAN and has_frame:
            if data.count(b"\xff\xda", found.start()) > _MAX_SCANS:
                raise Undecodable("the picture has too many scans")
            return data
        if marker in _FRAMES:
            depth, height, width, channels = struct.unpack_from(">BHHB", data, at + 2)
            _check_size(width, height, max_pixels)
            if depth != 8 or channels not in (1, 3, 4):
                break
            has_frame = True
        at += struct.unpack_from(">H", data, at)[0]
    raise _unread()


def _plain_png(data: bytes, max_pixels: int) -> bytes:
    """OpenCV 5.0.0 crashes on damaged animation chunks, and allocates what a chunk's length claims. libpng inflates
    compressed texts and left-over pixels without a bound, and writes a line about each chunk that comes twice.
    """
    kind, width, height, depth, colour, _, _, is_interlaced = struct.unpack_from(">4sIIBBBBB", data, 12)
    if kind != b"IHDR" or colour not in _CHANNELS:
        raise _unread()
    _check_size(width, height, max_pixels)
    parts, pixels, seen = [data[:33]], [], set()
    at = 33
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if kind == b"IDAT":
            pixels.append(data[at + 8 : end - 4])
        if kind in (b"IDAT", b"IEND") or (kind in _CHUNKS and kind not in seen):
            seen.add(kind)
            parts.append(data[at:end])
        if kind == b"IEND":
            row_bytes = 1 + (width * depth * _CHANNELS[colour] + 7) // 8
            _check_inflated(pixels, row_bytes * height * (2 if is_interlaced else 1))
            return b"".join(parts)
        at = end
    raise Undecodable("the picture is truncated or corrupt")


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


def _plain_webp(data: bytes, max_pixels: int) -> bytes:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    _check_size(width, height, max_pixels)
    return data


def _plain_bmp(data: bytes, max_pixels: int) -> bytes:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    _check_size(width, abs(height), max_pixels)
    return data


def _plain_tiff(data: bytes, max_pixels: int) -> bytes:
    """With a directory of the tags that are needed in the place of its first one, and no further pictures.

    libtiff goes through every directory, and decodes tiles to their full size, however little of one is picture.
    """
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries: dict[int, bytes] = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(f"{order}H", data, at)
        if tag in _TIFF_TAGS and tag not in entries:
            entries[tag] = data[at : at + 12]

    def number(tag: int, default: int = 0) -> int:
        if tag not in entries:
            return default
        kind, length = struct.unpack_from(f"{order}HI", entries[tag], 2)
        if kind not in (_SHORT, _LONG) or length != 1:
            raise _unread()
        value: int = struct.unpack_from(f"{order}H" if kind == _SHORT else f"{order}I", entries[tag], 8)[0]
        return value

    width, height = number(_WIDTH), number(_HEIGHT)
    _check_size(width, height, max_pixels)
    if number(_COMPRESSION, 1) not in _COMPRESSIONS:
        raise _unread()
    tiled_width, tiled_height = (
        -(-side // tile) * tile if tile else side
        for side, tile in ((width, number(_TILE_WIDTH)), (height, number(_TILE_HEIGHT)))
    )
    if tiled_width * tiled_height > _TILING * max_pixels:
        raise Undecodable("the picture's tiles are far larger than it is")
    place = len(data) + len(data) % 2
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return data[:4] + struct.pack(f"{order}I", place) + data[8:].ljust(place - 8, b"\0") + directory


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0:
        raise _unread()
    if width * height > max_pixels:
        megapixels = width * height / 1e6
        raise TooLarge(
            f"limits.max_megapixels: the picture has {megapixels:.1f} megapixels, and the limit is "
            f"{max_pixels / 1e6:g}; send a smaller one or raise it",
            limit="limits.max_megapixels",
        )


def _unread() -> Undecodable:
    return Undecodable("the picture's header is truncated, corrupt or of a variant that is not read")

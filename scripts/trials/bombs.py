"""Image bombs, which are files built to cost a decoder minutes of time or gigabytes of memory.

No bomb may cost the server more than a legitimate image of the largest allowed size.
"""

from __future__ import annotations

import functools
import random
import struct
import zlib
from collections.abc import Callable

from scripts.trials.damage import pictures, png, png_chunk, split

_WIDTH_PX, _HEIGHT_PX = 48, 40
_FULL_BYTES = 32 * 2**20 - 4096  # just below the size limit of request bodies
_PIXELS = png_chunk(b"IDAT", zlib.compress(bytes(_HEIGHT_PX * (3 * _WIDTH_PX + 1))))
_MEBIBYTE = zlib.compress(bytes(2**20), 9)


def _fill(part: bytes, reserved: int = 0) -> bytes:
    return part * ((_FULL_BYTES - reserved) // len(part))


def _chunky_png(chunk: bytes) -> bytes:
    return png(_WIDTH_PX, _HEIGHT_PX, _fill(chunk), _PIXELS)


def _zeros(mebibytes: int) -> bytes:
    """Return a deflate stream of this many mebibytes of zeros.

    A block after a full flush does not depend on earlier data, so the same compressed block can be repeated.
    """
    packer = zlib.compressobj(9)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block + (mebibytes - 1) * again + packer.flush()


def _claiming_png(width: int, height: int) -> bytes:
    return png(width, height, png_chunk(b"IDAT", zlib.compress(bytes(1000))))


def _stuffed_jpeg(segment: bytes) -> bytes:
    whole = pictures()["JPEG"]
    return whole[:2] + _fill(segment, len(whole)) + whole[2:]


def _scanning_jpeg() -> bytes:
    """Return a JPEG of 300,000 scans, each of which costs as much as decoding the whole image."""
    whole = pictures()["JPEG, progressive"]
    return whole[:-2] + _fill(whole[whole.rindex(b"\xff\xda") : -2], len(whole)) + whole[-2:]


def _claiming_jpeg() -> bytes:
    head, tail = pictures()["JPEG"].split(b"\xff\xc0", 1)
    return head + b"\xff\xc0" + tail[:3] + struct.pack(">HH", 50_000, 50_000) + tail[7:]


def _exif_jpeg() -> bytes:
    """Return a JPEG whose EXIF directory has 65,535 entries, each of which claims the same 16 MB as its value."""
    size = 16_000_000
    entries = b"".join(struct.pack("<HHII", tag, 1, size, 8) for tag in range(65_535))
    exif = (b"II*\0\x08\0\0\0" + struct.pack("<H", 65_535) + entries).ljust(size + 8, b"\0")
    parts = [exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts]
    whole = pictures()["JPEG"]
    return whole[:2] + b"".join(segments) + whole[2:]


def tiff(entries: dict[int, tuple[int, int, int]], data: bytes) -> bytes:
    """Return a TIFF that has one directory and then ``data``.

    ``entries`` maps each tag to its type, count and value. The function ``after`` returns the offset of ``data``.
    """
    packed = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + packed + bytes(4) + data


def after(entries: int) -> int:
    """Return the offset of the data that follows a directory with this many entries."""
    return 14 + 12 * entries


def _layout(width: int, height: int, compression: int = 8) -> dict[int, tuple[int, int, int]]:
    values = {256: width, 257: height, 258: 8, 259: compression, 262: 2, 277: 3, 284: 1}
    return {tag: (4 if tag < 258 else 3, 1, value) for tag, value in values.items()}


def _tiled_tiff() -> bytes:
    """Return a narrow, tall TIFF of 48 megapixels. Its tiles are so wide that 4 gigapixels must be decoded."""
    side, height = 4096, 1_000_000
    tile = zlib.compress(bytes(3 * side * side), 9)
    count, start = -(-height // side), after(11)
    lists = start + len(tile)
    entries = _layout(_WIDTH_PX, height) | {322: (4, 1, side), 323: (4, 1, side)}
    entries |= {324: (4, count, lists), 325: (4, count, lists + 4 * count)}
    return tiff(entries, tile + count * struct.pack("<I", start) + count * struct.pack("<I", len(tile)))


def _striped_tiff() -> bytes:
    """Return a TIFF of four million strips of one pixel each."""
    height, start = 4_000_000, after(10)
    entries = _layout(1, height, compression=1) | {278: (4, 1, 1)}
    entries |= {273: (4, height, start + 4), 279: (4, height, start + 4 + 4 * height)}
    return tiff(entries, b"\1\2\3\4" + height * struct.pack("<I", start) + height * struct.pack("<I", 3))


def _tagged_tiff() -> bytes:
    """Return a TIFF with 60,000 tags, each of which claims the same 8 MB as its value."""
    size = 8_000_000
    entries = _layout(_WIDTH_PX, _HEIGHT_PX, compression=1) | dict.fromkeys(range(700, 60700), (1, size, 8))
    entries |= {273: (4, 1, 8), 278: (4, 1, _HEIGHT_PX), 279: (4, 1, 3 * _WIDTH_PX * _HEIGHT_PX)}
    return tiff(entries, bytes(size))


def _fax_tiff() -> bytes:
    """Return a fax-coded TIFF that contains noise. Libtiff prints a warning to stderr for every row."""
    height, noise = 250_000, random.Random(0).randbytes(1_000_000)
    entries = {256: (4, 1, 40), 257: (4, 1, height), 258: (3, 1, 1), 259: (3, 1, 3), 262: (3, 1, 0), 277: (3, 1, 1)}
    entries |= {273: (4, 1, after(9)), 278: (4, 1, height), 279: (4, 1, len(noise))}
    return tiff(entries, noise)


def _strip_tiff(width: int, height: int, data: bytes) -> bytes:
    entries = _layout(width, height) | {273: (4, 1, after(10)), 278: (4, 1, height), 279: (4, 1, len(data))}
    return tiff(entries, data)


def _endless_tiff(count: int) -> bytes:
    """Return a TIFF with a chain of directories, the last of which points back to the first."""
    whole = pictures()["TIFF"]
    (start,) = struct.unpack("<I", whole[4:8])
    link = start + 2 + 12 * struct.unpack("<H", whole[start : start + 2])[0]
    places = [len(whole) + 18 * number for number in range(count)]
    further = (struct.pack("<HHHIII", 1, 256, 4, 1, 48, to) for to in (*places[1:], start))
    return whole[:link] + struct.pack("<I", len(whole) if count else start) + whole[link + 4 :] + b"".join(further)


def _webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _animated_webp(width: int, height: int, frames: int) -> bytes:
    frame = bytes(6) + (_WIDTH_PX - 1).to_bytes(3, "little") + (_HEIGHT_PX - 1).to_bytes(3, "little") + b"\x0a\0\0\0"
    frame += pictures()["WebP, lossless"][12:]
    canvas = b"\2\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return _webp((b"VP8X", canvas), (b"ANIM", bytes(6)), *([(b"ANMF", frame)] * frames))


def _stuffed_webp() -> bytes:
    head, first, *rest = split(pictures()["WebP, alpha"])
    parts = [first, _fill(b"abcd\0\0\0\0", 4096), *rest]
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, parts))) + head[8:] + b"".join(parts)


def _bmp(width: int, height: int, head_bytes: int = 40) -> bytes:
    info = struct.pack("<IiiHHIIiiII", head_bytes, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 6054, 0, 0, 54) + info + bytes(6000)


def _jumping_bmp() -> bytes:
    whole = pictures()["BMP, runs"]
    start = int.from_bytes(whole[10:14], "little")
    sized = whole[:start].replace(struct.pack("<ii", _WIDTH_PX, _HEIGHT_PX), struct.pack("<ii", 7000, 7000))
    return sized + _fill(b"\0\2\0\0", start)


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG that claims 50,000 px": functools.partial(_claiming_png, 50_000, 50_000),
    "PNG that claims 2 ** 31 px": functools.partial(_claiming_png, 2**31 - 1, 2**31 - 1),
    "PNG of 30,000 colour profiles": lambda: _chunky_png(png_chunk(b"iCCP", b"a\0\0" + _MEBIBYTE)),
    "PNG of 30,000 compressed texts": lambda: _chunky_png(png_chunk(b"zTXt", b"a\0\0" + _MEBIBYTE)),
    "PNG of 30,000 international texts": lambda: _chunky_png(png_chunk(b"iTXt", b"a\0\1\0\0\0" + _MEBIBYTE)),
    "PNG of empty chunks": lambda: _chunky_png(png_chunk(b"abCd", b"")),
    "PNG of empty pixel chunks": lambda: _chunky_png(png_chunk(b"IDAT", b"")),
    "PNG of two million transparencies": lambda: _chunky_png(png_chunk(b"tRNS", bytes(6))),
    "PNG with 30 gigabytes left over": lambda: png(_WIDTH_PX, _HEIGHT_PX, png_chunk(b"IDAT", _zeros(30_000))),
    "JPEG that claims 50,000 px": _claiming_jpeg,
    "JPEG of eight million empty segments": lambda: _stuffed_jpeg(b"\xff\xe9\0\2"),
    "JPEG of three million empty EXIF segments": lambda: _stuffed_jpeg(b"\xff\xe1\0\x08Exif\0\0"),
    "JPEG of full EXIF segments": lambda: _stuffed_jpeg(b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)),
    "JPEG of fill bytes": lambda: _stuffed_jpeg(b"\xff"),
    "JPEG of 300,000 scans": _scanning_jpeg,
    "JPEG with a terabyte of EXIF": _exif_jpeg,
    "TIFF that claims 50,000 px": lambda: _strip_tiff(50_000, 50_000, zlib.compress(bytes(1000))),
    "TIFF with 30 gigabytes left over": lambda: _strip_tiff(_WIDTH_PX, _HEIGHT_PX, _zeros(30_000)),
    "TIFF much narrower than its tiles": _tiled_tiff,
    "TIFF of four million strips": _striped_tiff,
    "TIFF with half a terabyte of tags": _tagged_tiff,
    "TIFF of 250,000 invalid rows": _fax_tiff,
    "TIFF whose directory points to itself": functools.partial(_endless_tiff, 0),
    "TIFF of a million directories": functools.partial(_endless_tiff, 1_000_000),
    "WebP that claims 16,000 px": functools.partial(_animated_webp, 16_384, 16_384, 1),
    "WebP of 80,000 frames": functools.partial(_animated_webp, _WIDTH_PX, _HEIGHT_PX, 80_000),
    "WebP of four million chunks": _stuffed_webp,
    "BMP that claims 50,000 px": functools.partial(_bmp, 50_000, 50_000),
    "BMP of 2 ** 31 rows": functools.partial(_bmp, 1, -(2**31)),
    "BMP with a short head": functools.partial(_bmp, 50_000, 50_000, 36),
    "BMP of eight million jumps": _jumping_bmp,
}

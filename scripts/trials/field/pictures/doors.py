"""Input for the decoders of the most recently added formats: image bombs, and intact images to damage."""

from __future__ import annotations

import functools
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from scripts.trials.field.pictures import bmp, heif, jpeg, phones, tiff
from scripts.trials.field.pictures.heif import Part, box, quadrants, size_of
from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.scenes import smooth

_FULL_BYTES = 32 * 2**20 - 65_536  # just below the size limit of request bodies
_SIDE_PX = 7000  # 49 megapixels


def whole(rng: random.Random) -> list[bytes]:
    """Return intact images of the most recently added formats, each of a few kilobytes."""
    image = Image.fromarray(smooth(rng, 48, 40))
    frames = [image.rotate(90 * quarter) for quarter in range(1, 3)]
    deep = smooth(rng, 40, 30).astype(np.uint16) * 257
    turned = heif.file([quadrants(heif.turn(90), heif.mirror(0), heif.crop(32, 32))])
    tiles = heif.grid([quadrants()] * 4, 2, 120, 100)
    return [
        turned,
        heif.file(tiles, len(tiles)),
        *(saved(image, "AVIF", subsampling=sampling, speed=10) for sampling in ("4:0:0", "4:2:0", "4:4:4")),
        heif.tiled(rng).data,
        saved(image, "AVIF", save_all=True, append_images=frames, speed=10),
        saved(image, "GIF"),
        saved(image.quantize(16), "GIF", save_all=True, append_images=frames, transparency=1),
        phones.placed_gif(rng),
        jpeg.lossless(rng).data,
        bmp.run_length(rng).data,
        bmp.sample(rng).data,
        tiff.encoded(deep, 2, 16, {}, tiff.Layout("<", True, 8, True, False, False, None, 7)),
        tiff.encoded(deep[:, :, :1], 0, 16, {}, tiff.Layout(">", False, 5, False, False, False, (32, 16), 7)),
    ]


def _large_gif() -> bytes:
    """Return a GIF of 49 megapixels in one colour. Each LZW code stands for a longer run than the one before it."""
    codes, table, left = [4], 6, _SIDE_PX * _SIDE_PX
    run = 1
    codes.append(0)
    left -= 1
    while left > 0:  # each code stands for one pixel more than the previous code
        run = min(run + 1, left, 4090)
        codes.append(table if run > 1 else 0)
        left -= run
        table += 1
        if table == 4095:
            codes += [4, 0]
            left, run, table = left - 1, 1, 6
    return _gif(_SIDE_PX, _SIDE_PX, _packed(codes))


def _packed(codes: list[int]) -> bytes:
    """Pack GIF codes, least significant bit first, into sub-blocks."""
    value, at, width, table = 0, 0, 3, 6
    data = bytearray()
    fresh = True
    for code in codes:
        value |= code << at
        at += width
        while at >= 8:
            data.append(value & 255)
            value, at = value >> 8, at - 8
        if code == 4:
            width, table, fresh = 3, 6, True
        elif fresh:
            fresh = False
        else:
            table += 1
            if table >> width and width < 12:
                width += 1
    data.append(value & 255)
    blocks = (bytes(data[start : start + 255]) for start in range(0, len(data), 255))
    return b"".join(bytes((len(block),)) + block for block in blocks) + b"\0"


def _gif(width: int, height: int, blocks: bytes, extensions: bytes = b"") -> bytes:
    screen = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0x81, 0, 0) + bytes(range(12))
    picture = struct.pack("<BHHHHBB", 0x2C, 0, 0, width, height, 0, 2)
    return screen + extensions + picture + blocks + b"\x3b"


def _heif(*meta: bytes) -> bytes:
    return box(b"ftyp", b"heic", bytes(4), b"mif1heic") + box(b"meta", bytes(4), *meta)


def _tiles(count: int) -> bytes:
    """Return a small HEIC that repeats the same tile ``count`` times."""
    rows = columns = round(count**0.5)
    head = bytes((0, 1, rows - 1, columns - 1)) + struct.pack(">II", 64 * columns, 64 * rows)
    return heif.file([quadrants(), Part(b"grid", head, (size_of(64, 64),), (1,) * (rows * columns))], 2)


def _extents() -> bytes:
    """Return a HEIC that lists more than six billion empty extents."""
    entry = struct.pack(">HHH", 1, 0, 0xFFFF)
    count = 100_000
    return _heif(
        box(b"pitm", bytes(4), b"\0\1"), box(b"iloc", bytes(4), b"\0\0", struct.pack(">H", 0xFFFF), entry * count)
    )


def _whole_files() -> bytes:
    """Return a HEIC whose image has 60,000 extents, each of which is the whole file."""
    parts = struct.pack(">II", 0, 0) * 60_000
    place = struct.pack(">HHHH", 1, 1, 0, 60_000) + parts
    return _heif(
        box(b"pitm", bytes(4), b"\0\1"),
        box(b"iinf", bytes(4), b"\0\1", box(b"infe", b"\2\0\0\0", b"\0\1\0\0hvc1\0")),
        box(b"iloc", bytes(4), b"\x44\0", place),
        box(
            b"iprp",
            box(b"ipco", *quadrants().properties),
            box(b"ipma", bytes(4), struct.pack(">IHBBB", 1, 1, 2, 1, 2)),
        ),
    ) + bytes(_FULL_BYTES - 1_000_000)


def _slices() -> bytes:
    still = quadrants()
    return heif.file([Part(still.kind, still.payload * (_FULL_BYTES // len(still.payload)), still.properties)])


def _frames() -> bytes:
    still = heif.coded(saved(Image.new("RGB", (64, 64)), "AVIF"))
    return heif.file([Part(still.kind, still.payload * (_FULL_BYTES // len(still.payload)), still.properties)])


def _runs() -> bytes:
    """Return a BMP whose runs have one pixel each."""
    start = 54 + 1024
    head = struct.pack("<2sIHHI", b"BM", 0, 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, _SIDE_PX, _SIDE_PX, 1, 8, 1, 0, 0, 0, 0, 0)
    row = b"\1\0" * _SIDE_PX + b"\0\0"
    return head + bytes(1024) + row * ((_FULL_BYTES - start) // len(row))


def _strips() -> bytes:
    """Return a TIFF of four million deflated strips."""
    height, strip = 4_000_000, zlib.compress(b"\1\2\3")
    entries = {256: 1, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 278: 1}
    start = 8 + 2 + 12 * 9 + 4
    lists = start + len(strip)
    body = strip + struct.pack("<I", start) * height + struct.pack("<I", len(strip)) * height
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items() if tag < 273)
    packed += struct.pack("<HHII", 273, 4, height, lists)
    packed += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items() if tag > 273)
    packed += struct.pack("<HHII", 279, 4, height, lists + 4 * height)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 9) + packed + bytes(4) + body


def _webp_with(kind: bytes, body: bytes) -> bytes:
    return phones.webp_with(saved(Image.new("RGB", (48, 40)), "WEBP"), (40, 48), [(kind, body)])


BOMBS: dict[str, Callable[[], bytes]] = {
    "GIF that claims 60,000 px": lambda: _gif(60_000, 60_000, b"\0"),
    "GIF of 49 megapixels": _large_gif,
    "GIF of sixteen million extensions": lambda: _gif(48, 40, b"\0", b"\x21\xfe\0" * (_FULL_BYTES // 3)),
    "HEIC that claims 40,000 px": lambda: heif.file([Part(b"hvc1", b"", (size_of(40_000, 40_000),))]),
    "HEIC of a tile that comes a thousand times": functools.partial(_tiles, 1024),
    "HEIC of a tile that comes 65,025 times": functools.partial(_tiles, 65_025),
    "HEIC of six thousand million empty places": _extents,
    "HEIC of sixty thousand whole files": _whole_files,
    "HEIC of 30 MB of properties": lambda: _heif(box(b"iprp", box(b"ipco", bytes(_FULL_BYTES - 100)))),
    "HEIC of four million boxes": lambda: box(b"ftyp", b"heic", bytes(4)) + box(b"free") * (_FULL_BYTES // 8),
    "HEIC of half a million slices": _slices,
    "AVIF of half a million frames": _frames,
    "BMP of sixteen million runs": _runs,
    "TIFF of four million deflated strips": _strips,
    "WebP of five million prefixes": lambda: _webp_with(b"EXIF", b"Exif\0\0" * (_FULL_BYTES // 6)),
    "WebP of 30 MB of XMP": lambda: _webp_with(b"XMP ", b"tiff:Orientation" * (_FULL_BYTES // 16)),
}

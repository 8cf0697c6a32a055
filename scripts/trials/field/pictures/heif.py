"""Build HEIF files, which consist of boxes.

Like the files of phones, these files have rotations, mirrors, crops and grids of tiles.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.scenes import LOSSY, Pixels, Sample, faint, smooth
from serve_app.images.isobmff import read_items

_QUARTERS = {90: 1, 180: 2, 270: 3}  # ``irot`` counts quarter turns counter-clockwise


@dataclass(frozen=True)
class Part:
    """An item of the file.

    ``properties`` contains the boxes of the item's properties. ``made_of`` lists the items of which this item
    is made, by their numbers.
    """

    kind: bytes
    payload: bytes
    properties: tuple[bytes, ...] = ()
    made_of: tuple[int, ...] = ()
    references: bytes = b"dimg"


def box(kind: bytes, *parts: bytes) -> bytes:
    """Return a box of this kind."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def file(parts: list[Part], primary: int = 1, brand: bytes = b"heic") -> bytes:
    """Return a HEIF file with these items. The items are numbered from 1."""
    head = box(b"ftyp", brand, bytes(4), b"mif1", brand)
    infos, places, references, known, associations = [], [], [], [], []
    offset = 0
    for number, part in enumerate(parts, 1):
        infos.append(box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", number, 0, part.kind), b"\0"))
        places.append((number, offset, len(part.payload)))
        offset += len(part.payload)
        if part.made_of:
            body = struct.pack(f">HH{len(part.made_of)}H", number, len(part.made_of), *part.made_of)
            references.append(box(part.references, body))
        numbers = []
        for each in part.properties:
            if each not in known:
                known.append(each)
            numbers.append(known.index(each) + 1)
        associations.append(
            struct.pack(f">HB{len(numbers)}B", number, len(numbers), *(0x80 | each for each in numbers))
        )

    def meta(start: int) -> bytes:
        entries = b"".join(struct.pack(">HHHII", number, 0, 1, start + at, size) for number, at, size in places)
        return box(
            b"meta", bytes(4), box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), struct.pack(">H", primary)),
            box(b"iloc", bytes(4), b"\x44\0", struct.pack(">H", len(places)), entries),
            box(b"iinf", bytes(4), struct.pack(">H", len(infos)), *infos),
            box(b"iref", bytes(4), *references) if references else b"",
            box(b"iprp", box(b"ipco", *known), box(b"ipma", bytes(4), struct.pack(">I", len(parts)), *associations)),
        )  # fmt: skip

    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + box(b"mdat", *(part.payload for part in parts))


def size_of(width: int, height: int) -> bytes:
    """Return the property with an image's size."""
    return box(b"ispe", bytes(4), struct.pack(">II", width, height))


def turn(degrees: int) -> bytes:
    """Return the property that rotates an image counter-clockwise."""
    return box(b"irot", bytes((_QUARTERS[degrees],)))


def mirror(axis: int) -> bytes:
    """Return the property that swaps top and bottom if ``axis`` is 0, or left and right if ``axis`` is 1."""
    return box(b"imir", bytes((axis,)))


def crop(width: int, height: int, right: int = 0, down: int = 0) -> bytes:
    """Return the property that crops an image. ``right`` and ``down`` shift the crop from the centre, in pixels."""
    return box(b"clap", struct.pack(">8i", width, 1, height, 1, right, 1, down, 1))


def coded(data: bytes) -> Part:
    """Return the primary image of a file as an item. The item has no property for rotation or mirroring."""
    items = read_items(data)
    item = items[items.primary]
    kept = tuple(
        box(each.kind, each.body)
        for each in item.properties
        if each.kind in (b"av1C", b"hvcC", b"ispe", b"colr", b"pixi")
    )
    return Part(item.kind, items.payload(item), kept)


def grid(tiles: list[Part], columns: int, width: int, height: int, properties: tuple[bytes, ...] = ()) -> list[Part]:
    """Return the items of an image that is made of tiles. The last item is the image."""
    head = bytes((0, 0, len(tiles) // columns - 1, columns - 1)) + struct.pack(">HH", width, height)
    made_of = tuple(range(1, len(tiles) + 1))
    return [*tiles, Part(b"grid", head, (size_of(width, height), *properties), made_of)]


def tiled(rng: random.Random, image_format: str = "AVIF") -> Sample:
    """Return a random image of tiles. The last row and column of tiles may extend beyond the image's edges."""
    side, columns, rows = 64, rng.randint(1, 3), rng.randint(1, 3)
    width = side * columns - 2 * rng.randint(0, 10)
    height = side * rows - 2 * rng.randint(0, 10)
    pixels = faint(smooth(rng, side * columns, side * rows))
    tiles = [
        coded(saved(Image.fromarray(part), image_format, quality=90))
        for row in np.split(pixels, rows)
        for part in np.split(row, columns, axis=1)
    ]
    parts = grid(tiles, columns, width, height)
    brand = b"avif" if image_format == "AVIF" else b"heic"
    return Sample(f"{image_format}, tiles", file(parts, len(parts), brand), LOSSY)


# An HEVC still image of 64×64 pixels: red over blue on the left, and green over white on the right. Its decoder
# configuration and its coded pixels (a slice) are stored here, so that tests need no encoder.
QUADRANTS: Pixels = np.zeros((64, 64, 3), np.uint8)
QUADRANTS[:32, :32], QUADRANTS[32:, :32] = (200, 30, 30), (30, 30, 200)
QUADRANTS[:32, 32:], QUADRANTS[32:, 32:] = (30, 160, 30), (240, 240, 240)
_CONFIG = bytes.fromhex(
    "01 04 08 00 00 00 9e 38 00 00 00 00 1e f0 00 fc ff f8 f8 00 00 0f 03 60 00 01 00 17 40 01 0c 01 ff ff 04 "
    "08 00 00 03 00 9e 38 00 00 03 00 00 1e ba 02 40 61 00 01 00 2a 42 01 01 04 08 00 00 03 00 9e 38 00 00 03 "
    "00 00 1e 90 04 10 20 b2 dd 49 25 35 cd c0 43 41 81 00 00 03 00 19 00 00 03 00 01 08 62 00 01 00 08 44 01 "
    "c1 72 86 0c 02 24 "
)
_SLICE = bytes.fromhex(
    "00 00 00 3c 28 01 af 09 e0 21 39 75 5f ff fd 18 df ff fc 23 4f 21 fb 5c af 67 9e 7c ce 48 7f c1 92 7f ff "
    "13 f5 63 0f ff c8 02 20 3f 97 67 bb ff 84 b8 b6 77 ff f9 40 14 e9 f0 88 38 be 80 c5 e0 "
)


def quadrants(*properties: bytes) -> Part:
    """Return the stored HEVC image as an item."""
    config = box(b"hvcC", _CONFIG)
    return Part(b"hvc1", _SLICE, (config, size_of(64, 64), *properties))

"""A generator of TIFFs and BigTIFFs with every layout, depth, colour space and kind of alpha."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.metadata import xmp
from scripts.trials.field.pictures.scenes import (
    JPEG,
    LOSSLESS,
    Array,
    Pixels,
    Sample,
    eight_bits,
    grey,
    noisy,
    packed,
    size,
    smooth,
    upright,
)  # fmt: skip

Tags = dict[int, tuple[int, tuple[int, ...]]]  # maps a tag to its type and its numbers

_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 8, 32946, 32773
_SHORT, _LONG, _LONG8, _BYTE = 3, 4, 16, 1
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # maps a colour space (PhotometricInterpretation) to samples per pixel
_BITS = {0: (1, 4, 8, 16), 1: (1, 4, 8, 16), 2: (8, 16), 3: (1, 4, 8), 5: (8,), 6: (8,)}
_NAMES = {0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr"}


@dataclass(frozen=True)
class Layout:
    """How the samples of an image are stored in its file."""

    order: str
    is_big: bool
    compression: int
    has_predictor: bool
    is_planar: bool
    is_reversed: bool
    tile: tuple[int, int] | None  # width, height
    strip_rows: int


def sample(rng: random.Random) -> Sample:
    """Return a random TIFF."""
    if rng.random() < 0.2:
        return _of_pillow(rng)
    photometric = rng.choice(list(_COLOURS))
    bits = rng.choice(_BITS[photometric])
    width, height = size(rng)
    colours = _COLOURS[photometric]
    alpha = rng.choice((None, None, 0, 1, 2)) if bits >= 8 and photometric in (1, 2) else None
    if alpha == 1 and (bits, photometric) != (8, 2):
        alpha = 2
    values = noisy(rng, (height, width, colours + (alpha is not None)), (1 << bits) - 1)
    truth = _truth(values, photometric, bits)
    tags: Tags = {}
    if photometric == 3:
        palette = noisy(rng, (1 << bits, 3))
        truth = palette[values[:, :, 0]]
        tags[320] = _SHORT, tuple(int(value) * 257 for value in palette.T.reshape(-1))
    if alpha is not None:
        tags[338] = _SHORT, (alpha,)
    if photometric == 6:
        tags |= {530: (_SHORT, (1, 1)), 531: (_SHORT, (1,))}
    if alpha == 1:
        values[:, :, :colours] = values[:, :, :colours].astype(int) * values[:, :, colours:] // 255
    orientation = rng.choice((1, 1, rng.randint(1, 8)))
    if orientation > 1 and rng.random() < 0.8:
        tags[274] = _SHORT, (orientation,)
    elif orientation > 1:
        tags[700] = _BYTE, tuple(xmp(orientation))
    layout = _layout(rng, bits, values.shape[2])
    if rng.random() < 0.3:
        tags[339] = _SHORT, (1,) * values.shape[2]
    # Colours that were multiplied by alpha cannot be restored exactly, so the true pixels are not known.
    has_truth = alpha != 1 and photometric not in (5, 6)
    has_thumbnail = has_truth and rng.random() < 0.1
    data = encoded(values, photometric, bits, tags, layout, has_thumbnail=has_thumbnail)
    name = f"{'Big' * layout.is_big}TIFF, {_NAMES[photometric]}, {bits} bits, compression {layout.compression}"
    name += f"{', planar' * layout.is_planar}{', tiles' * bool(layout.tile)}{', predictor' * layout.has_predictor}"
    name += f", alpha {alpha}" if alpha is not None else ""
    # If a thumbnail comes first, Pillow reads it instead of the image. Pillow also fails to invert 16-bit
    # images in which 0 means white.
    return Sample(
        name,
        data,
        truth=upright(truth, orientation) if has_truth else None,
        is_for_pillow=not has_thumbnail and (photometric, bits) != (0, 16),
    )


def _of_pillow(rng: random.Random) -> Sample:
    """Return a random TIFF in one of the compressions that Pillow can write."""
    mode = rng.choice(("1", "1", "L", "RGB", "CMYK", "YCbCr"))
    compressions = ["packbits", "tiff_lzw", "tiff_adobe_deflate", None]
    compressions += ["group3", "group4", "tiff_ccitt"] * 2 if mode == "1" else ["jpeg"] * 3
    compression = rng.choice(compressions)
    data = saved(Image.fromarray(smooth(rng)).convert(mode), "TIFF", compression=compression)
    return Sample(f"TIFF, {mode}, compression {compression}", data, JPEG if compression == "jpeg" else LOSSLESS)


def _truth(values: Array, photometric: int, bits: int) -> Pixels:
    eight = eight_bits(values, (1 << bits) - 1)
    if photometric == 2:
        return eight[:, :, :3]
    return grey(255 - eight[:, :, 0] if photometric == 0 else eight[:, :, 0])


def _layout(rng: random.Random, bits: int, samples: int) -> Layout:
    compression = rng.choice((_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS))
    # OpenCV cannot read uncompressed tiles of less than 1,024 bytes.
    sides = (128, 64) if compression == _NONE else (16 * rng.randint(1, 4), 16 * rng.randint(1, 4))
    has_predictor = bits >= 8 and compression in (_LZW, _DEFLATE, _OLD_DEFLATE) and rng.random() < 0.4
    return Layout(
        order=rng.choice("<>"),
        is_big=rng.random() < 0.2,
        compression=compression,
        has_predictor=has_predictor,
        is_planar=samples > 1 and bits == 8 and rng.random() < 0.2,
        is_reversed=(compression != _NONE or bits <= 8) and rng.random() < 0.1,
        tile=sides if rng.random() < 0.25 else None,
        strip_rows=rng.choice((1, 7, 16, 200)),
    )


def encoded(
    values: Array, photometric: int, bits: int, tags: Tags, layout: Layout,
    *, has_thumbnail: bool = False, instead: Tags | None = None,
) -> bytes:  # fmt: skip
    """Return a TIFF with its pixels before its directories. ``instead`` overrides tags, usually with wrong values."""
    height, width, samples = values.shape
    planes = [values[:, :, number : number + 1] for number in range(samples)] if layout.is_planar else [values]
    parts = [_part(part, bits, layout) for plane in planes for part in _parts(plane, layout)]
    start = 16
    offsets = [start + sum(map(len, parts[:number])) for number in range(len(parts))]
    tags = tags | {
        256: (_LONG, (width,)), 257: (_LONG, (height,)), 258: (_SHORT, (bits,) * samples),
        259: (_SHORT, (layout.compression,)), 262: (_SHORT, (photometric,)), 277: (_SHORT, (samples,)),
        284: (_SHORT, (2 if layout.is_planar else 1,)), 254: (_LONG, (0,)),
    }  # fmt: skip
    sizes = tuple(map(len, parts))
    if layout.tile:
        tags |= {322: (_LONG, layout.tile[:1]), 323: (_LONG, layout.tile[1:])}
        tags |= {324: (_LONG, tuple(offsets)), 325: (_LONG, sizes)}
    else:
        tags |= {278: (_LONG, (layout.strip_rows,)), 273: (_LONG, tuple(offsets)), 279: (_LONG, sizes)}
    if layout.has_predictor:
        tags[317] = _SHORT, (2,)
    if layout.is_reversed:
        tags[266] = _SHORT, (2,)
    tags |= instead or {}
    body = b"".join(parts)
    body += b"\0" * (len(body) % 2)
    pages = [tags]
    if has_thumbnail:  # the thumbnail comes first, as in the files of cameras and scanners
        small = dict(tags)
        small |= {254: (_LONG, (1,)), 256: (_LONG, (1,)), 257: (_LONG, (1,)), 259: (_SHORT, (1,))}
        pages.insert(0, small)
    return _file(body, pages, layout)


def _file(body: bytes, pages: list[Tags], layout: Layout) -> bytes:
    order, is_big = layout.order, layout.is_big
    offset, count = ("Q", "Q") if is_big else ("I", "H")
    mark = b"II" if order == "<" else b"MM"
    place = 16 + len(body)
    head = (
        mark + struct.pack(f"{order}HHHQ", 43, 8, 0, place) if is_big else mark + struct.pack(f"{order}HI", 42, place)
    )
    result = head.ljust(16, b"\0") + body
    for number, tags in enumerate(pages):
        size_bytes = struct.calcsize("=" + count) + len(tags) * (20 if is_big else 12) + struct.calcsize("=" + offset)
        values_at, entries, values = len(result) + size_bytes, b"", b""
        for tag, (kind, numbers) in sorted(tags.items()):
            packed_numbers = struct.pack(f"{order}{len(numbers)}{ {1: 'B', 3: 'H', 4: 'I', 16: 'Q'}[kind] }", *numbers)
            field = packed_numbers.ljust(8 if is_big else 4, b"\0")
            if len(packed_numbers) > (8 if is_big else 4):
                field = struct.pack(order + offset, values_at + len(values))
                values += packed_numbers + b"\0" * (len(packed_numbers) % 2)
            entries += struct.pack(f"{order}HH{offset}", tag, kind, len(numbers)) + field
        following = values_at + len(values) if number + 1 < len(pages) else 0
        result += struct.pack(order + count, len(tags)) + entries + struct.pack(order + offset, following) + values
    return result


def _parts(plane: Array, layout: Layout) -> Iterator[Array]:
    """Yield the strips or tiles of a plane. Tiles at the right and lower edges are padded."""
    height, width, _ = plane.shape
    if not layout.tile:
        for top in range(0, height, layout.strip_rows):
            yield plane[top : top + layout.strip_rows]
        return
    across, down = layout.tile
    filled = np.pad(plane, ((0, -height % down), (0, -width % across), (0, 0)))
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield filled[top : top + down, left : left + across]


def _part(part: Array, bits: int, layout: Layout) -> bytes:
    if layout.has_predictor:
        wide = part.astype(np.int32)
        part = np.diff(wide, axis=1, prepend=np.zeros_like(wide[:, :1])) & ((1 << bits) - 1)
    rows = packed(part.reshape(len(part), -1), bits)
    if bits == 16 and layout.order == "<":
        rows = np.ascontiguousarray(rows).view(">u2").astype("<u2").view(np.uint8)
    data = rows.tobytes()
    if layout.compression in (_DEFLATE, _OLD_DEFLATE):
        data = zlib.compress(data)
    elif layout.compression == _LZW:
        data = _lzw(data)
    elif layout.compression == _PACKBITS:
        data = b"".join(map(_packbits, rows))
    if layout.is_reversed:
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
    return data


def _packbits(row: Array) -> bytes:
    """Encode a row with PackBits, using a run wherever at least three equal bytes follow each other."""
    data, result, at = row.tobytes(), bytearray(), 0
    while at < len(data):
        run = 1
        while run < 128 and data[at : at + 1] == data[at + run : at + run + 1]:
            run += 1
        if run > 2:
            result += bytes((257 - run, data[at]))
            at += run
        else:
            literal = data[at : at + 100]
            result += bytes((len(literal) - 1,)) + literal
            at += len(literal)
    return bytes(result)


def _lzw(data: bytes) -> bytes:
    """Encode data as LZW codes of nine bits. The table is cleared before longer codes are needed."""
    codes = []
    for at in range(0, len(data), 200):
        codes += [256, *data[at : at + 200]]
    codes.append(257)
    bits = np.unpackbits(np.array(codes, ">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 7:]
    return np.packbits(bits.reshape(-1)).tobytes()

"""A generator of PNGs with every colour type, depth, filter and interlacing, and with metadata."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np

from scripts.trials.damage import png, png_chunk
from scripts.trials.field.pictures.metadata import PREFIX, exif, xmp
from scripts.trials.field.pictures.scenes import Array, Pixels, Sample, eight_bits, grey, noisy, packed, size, upright

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # bit depths by colour type
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def sample(rng: random.Random) -> Sample:
    """Return a random PNG."""
    colour = rng.choice(list(_DEPTHS))
    depth = rng.choice(_DEPTHS[colour])
    width, height = size(rng)
    most = (1 << depth) - 1
    colours = most + 1 if rng.random() < 0.5 else rng.randint(1, min(256, most + 1))
    values = noisy(rng, (height, width, _CHANNELS[colour]), colours - 1 if colour == 3 else most)
    chunks, is_transparent = [], rng.random() < 0.4
    if colour == 3:
        palette = noisy(rng, (colours, 3))
        chunks.append(png_chunk(b"PLTE", palette.tobytes()))
        truth: Pixels = palette[values[:, :, 0]]
        if is_transparent:
            chunks.append(png_chunk(b"tRNS", noisy(rng, (rng.randint(1, colours),)).tobytes()))
    else:
        eight = eight_bits(values, most)
        truth = eight[:, :, :3] if colour in (2, 6) else grey(eight[:, :, 0])
        if is_transparent and colour in (0, 2):
            chunks.append(png_chunk(b"tRNS", struct.pack(f">{_CHANNELS[colour]}H", *map(int, values[0, 0]))))
    is_interlaced = rng.random() < 0.3
    pixels = zlib.compress(_filtered(rng, values, depth, is_interlaced))
    cut = rng.randint(0, len(pixels))
    data_chunks = [png_chunk(b"IDAT", part) for part in (pixels[:cut], pixels[cut:])]
    name, orientation, notes, is_first = _notes(rng)
    data = png(
        width, height, *(notes * is_first), *chunks, *data_chunks, *(notes * (not is_first)),
        depth=depth, colour=colour, interlaced=is_interlaced,
    )  # fmt: skip
    kind = f"PNG, colour type {colour}, {depth} bits{', interlaced' * is_interlaced}{', tRNS' * is_transparent}{name}"
    return Sample(kind, data, truth=upright(truth, orientation))


def _notes(rng: random.Random) -> tuple[str, int, list[bytes], bool]:
    """Return random metadata: a name, the orientation, the chunks, and whether the chunks precede the pixels."""
    orientation = rng.randint(1, 8)
    block = exif(rng, orientation)
    text = f"\nexif\n{len(block):8}\n{(PREFIX + block).hex()}\n".encode()
    others = [png_chunk(b"gAMA", struct.pack(">I", 45455)), png_chunk(b"tEXt", b"Software\0somebody's")]
    name, orientation, chunk = rng.choice(
        (
            ("", 1, b""),
            (", eXIf", orientation, png_chunk(b"eXIf", block)),
            (", eXIf with prefix", orientation, png_chunk(b"eXIf", PREFIX + block)),
            (", EXIF as text", orientation, png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))),
            (", XMP", orientation, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation))),
        )
    )
    return name, orientation, [chunk, *others], rng.random() < 0.5


def _filtered(rng: random.Random, values: Array, depth: int, is_interlaced: bool) -> bytes:
    parts = [values]
    if is_interlaced:
        parts = [values[y::down, x::across] for y, x, down, across in _PASSES]
    bytes_of_pixel = max(1, values.shape[2] * depth // 8)
    return b"".join(
        _filtered_rows(rng, packed(part.reshape(len(part), -1), depth), bytes_of_pixel) for part in parts if part.size
    )


def _filtered_rows(rng: random.Random, rows: Array, step: int) -> bytes:
    result, above = [], np.zeros(rows.shape[1], np.int16)
    for row in rows.astype(np.int16):
        left, corner = (np.pad(each, (step, 0))[: len(row)] for each in (row, above))
        kind = rng.randrange(5)
        if kind == 4:
            guess = left + above - corner
            distances = [np.abs(guess - each) for each in (left, above, corner)]
            predicted = np.choose(np.argmin(distances, axis=0), (left, above, corner))
        else:
            predicted = (np.zeros_like(row), left, above, (left + above) // 2)[kind]
        result.append(bytes((kind,)) + ((row - predicted) & 255).astype(np.uint8).tobytes())
        above = row
    return b"".join(result)

"""A generator of BMPs with every header, depth, mask and compression."""

from __future__ import annotations

import random
import struct

import numpy as np

from scripts.trials.field.pictures.scenes import Array, Pixels, Sample, eight_bits, noisy, packed, size

_HEADERS = (12, 40, 40, 40, 52, 56, 64, 108, 124)
_MASKS = {
    16: ((0xF800, 0x07E0, 0x001F), (0x7C00, 0x03E0, 0x001F), (0x0F00, 0x00F0, 0x000F), (0x001F, 0x07E0, 0xF800)),
    32: (
        (0xFF0000, 0xFF00, 0xFF), (0xFF, 0xFF00, 0xFF0000), (0xFF000000, 0xFF0000, 0xFF00),
        (0xFF00, 0xFF0000, 0xFF000000), (0x3FF00000, 0xFFC00, 0x3FF),
    ),
}  # fmt: skip


def sample(rng: random.Random) -> Sample:
    """Return a random BMP."""
    if rng.random() < 0.35:
        return run_length(rng)
    bits = rng.choice((1, 4, 8, 16, 24, 32))
    header = rng.choice(_HEADERS)
    if header == 12 and bits in (16, 32):
        header = 40
    width, height = size(rng)
    is_top_down = header != 12 and rng.random() < 0.3
    compression, extra = 0, b""
    if bits <= 8:
        colours = 1 << bits if header == 12 or rng.random() < 0.5 else rng.randint(2, 1 << bits)
        palette = noisy(rng, (colours, 3))
        indices = noisy(rng, (height, width), colours - 1)
        truth: Pixels = palette[indices]
        rows = packed(indices, bits)
    else:
        colours, palette = 0, np.zeros((0, 3), np.uint8)
        if bits == 24:
            truth = noisy(rng, (height, width, 3))
            rows = truth[:, :, ::-1].reshape(height, -1)
        else:
            masks = _MASKS[bits][1 if bits == 16 else 0]
            if header != 64 and rng.random() < 0.7:
                masks, compression = rng.choice(_MASKS[bits]), 3
                extra = struct.pack("<III", *masks)
            truth, rows = _masked(rng, width, height, bits, masks)
    data = _file(header, (width, -height if is_top_down else height), bits, compression, palette, extra)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    name = f"BMP, {bits} bits, header of {header} bytes{', top down' * is_top_down}{', masks' * bool(compression)}"
    return Sample(name, data + (rows if is_top_down else rows[::-1]).tobytes(), truth=truth)


def _masked(rng: random.Random, width: int, height: int, bits: int, masks: tuple[int, ...]) -> tuple[Pixels, Array]:
    words: Array = noisy(rng, (height, width), 0xFFFF).astype(np.uint32)
    if bits == 32:
        words = words << 16 | noisy(rng, (height, width), 0xFFFF)
    channels = []
    for mask in masks:
        shift = (mask & -mask).bit_length() - 1
        channels.append(eight_bits(words >> shift & mask >> shift, mask >> shift))
    return np.stack(channels, axis=2), words.astype(f"<u{bits // 8}").view(np.uint8)


def _file(
    header: int, sides: tuple[int, int], bits: int, compression: int, palette: Array, masks: bytes, size_bytes: int = 0
) -> bytes:
    """Return the part of the file that precedes the pixels."""
    if header == 12:
        info = struct.pack("<IHHHH", 12, *sides, 1, bits)
        table = palette[:, ::-1].tobytes()
    else:
        info = struct.pack("<IiiHHIIiiII", header, *sides, 1, bits, compression, size_bytes, 0, 0, len(palette), 0)
        if header > 40:
            info = (info + masks).ljust(header, b"\0")
            masks = b""
        table = masks + np.pad(palette[:, ::-1], ((0, 0), (0, 1))).tobytes()
    start = 14 + len(info) + len(table)
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, start) + info + table


def run_length(rng: random.Random) -> Sample:
    """Return a random run-length BMP, with variations that different encoders produce."""
    bits = rng.choice((4, 8))
    width, height = size(rng)
    colours = 1 << bits
    palette = noisy(rng, (colours, 3))
    indices = np.repeat(noisy(rng, (height, width // 3 + 1), colours - 1), 3, axis=1)[:, :width]
    is_padded, has_end = rng.random() < 0.5, rng.random() < 0.8
    data = runs(rng, indices, palette, bits, is_padded=is_padded, has_end=has_end)
    name = f"BMP, runs of {bits} bits{', padded rows' * is_padded}{', no end' * (not has_end)}"
    # Pillow 13 moves the surplus pixels of a padded row into the next row.
    return Sample(name, data, truth=palette[indices], is_for_pillow=False)


def runs(
    rng: random.Random, indices: Array, palette: Array, bits: int, *, is_padded: bool = True, has_end: bool = True
) -> bytes:
    """Return a run-length BMP of palette indices, each of which has ``bits`` bits (4 or 8)."""
    height, width = indices.shape
    code = bytearray()
    for number, row in enumerate(indices[::-1]):
        code += _row(rng, np.pad(row, (0, -width % 4 if is_padded else 0)), bits)
        if number < height - 1 or not has_end or rng.random() < 0.5:
            code += b"\0\0"
    code += b"\0\1" if has_end else b""
    return _file(40, (width, height), bits, 1 if bits == 8 else 2, palette, b"", len(code)) + bytes(code)


def _row(rng: random.Random, row: Array, bits: int) -> bytes:
    code, at = bytearray(), 0
    while at < len(row):
        run = 1
        while at + run < len(row) and run < 255 and row[at + run] == row[at]:
            run += 1
        literal = min(len(row) - at, rng.randint(3, 40))
        if literal >= 3 and rng.random() < 0.3:
            values = row[at : at + literal]
            body = packed(values[None], bits).tobytes()
            code += bytes((0, literal)) + body + b"\0" * (len(body) % 2)
            at += literal
        else:
            code += bytes((run, int(row[at]) * (1 if bits == 8 else 17)))
            at += run
    return bytes(code)

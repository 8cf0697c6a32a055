"""Intact images of many formats, and functions that damage images. A decoder must survive every damaged image."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

_WIDTH_PX, _HEIGHT_PX = 48, 40
_LONGEST_BYTES = 1 << 18
_EDGES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"RIFF\0\0\0\0WEBP", b"GIF89a")

Damage = Callable[[random.Random, bytes], bytes]


def pictures() -> dict[str, bytes]:
    """Return one image of a few kilobytes for each format and variant."""
    rows, columns = np.mgrid[0:_HEIGHT_PX, 0:_WIDTH_PX]
    pixels = np.stack([columns * 5, rows * 6, (rows * columns) % 256], axis=2).astype(np.uint8)
    rgb = Image.fromarray(pixels)
    rgba = rgb.convert("RGBA")
    frames = [rgb.rotate(90 * turn) for turn in range(1, 4)]
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: "x" * 200, 0x0131: "y" * 50})
    deep = pixels.astype(np.uint16) * 257
    return {
        "JPEG": _saved(rgb, "JPEG"),
        "JPEG, progressive": _saved(rgb, "JPEG", progressive=True),
        "JPEG, EXIF": _saved(rgb, "JPEG", exif=exif, quality=60),
        "JPEG, grey": _saved(rgb.convert("L"), "JPEG"),
        "JPEG, CMYK": _saved(rgb.convert("CMYK"), "JPEG"),
        "JPEG, restarts": _encoded(".jpg", pixels, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "PNG": _saved(rgb, "PNG"),
        "PNG, alpha": _saved(rgba, "PNG", exif=exif),
        "PNG, palette": _saved(rgb.convert("P"), "PNG", transparency=3),
        "PNG, bilevel": _saved(rgb.convert("1"), "PNG"),
        "PNG, 16 bits": _encoded(".png", deep),
        "PNG, grey, 16 bits": _encoded(".png", deep[:, :, 0]),
        "PNG, interlaced": _interlaced_png(pixels),
        "PNG, animated": _saved(rgb, "PNG", save_all=True, append_images=frames),
        "WebP": _saved(rgb, "WEBP"),
        "WebP, lossless": _saved(rgb, "WEBP", lossless=True),
        "WebP, alpha": _saved(rgba, "WEBP", exif=exif),
        "WebP, animated": _saved(rgba, "WEBP", save_all=True, append_images=frames, lossless=True),
        "TIFF": _saved(rgb, "TIFF"),
        "TIFF, LZW": _saved(rgb, "TIFF", compression="tiff_lzw"),
        "TIFF, deflate": _saved(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF, JPEG": _saved(rgb, "TIFF", compression="jpeg"),
        "TIFF, PackBits": _saved(rgb, "TIFF", compression="packbits"),
        "TIFF, fax": _saved(rgb.convert("1"), "TIFF", compression="group4"),
        "TIFF, palette": _saved(rgb.convert("P"), "TIFF"),
        "TIFF, 16 bits": _encoded(".tiff", deep),
        "TIFF, floats": _encoded(".tiff", pixels.astype(np.float32)),
        "TIFF, pages": _saved(rgb, "TIFF", save_all=True, append_images=frames),
        "BMP": _saved(rgb, "BMP"),
        "BMP, palette": _saved(rgb.convert("P"), "BMP"),
        "BMP, bilevel": _saved(rgb.convert("1"), "BMP"),
        "BMP, alpha": _saved(rgba, "BMP"),
        "BMP, runs": _run_length_bmp(),
    }


def damaged(rng: random.Random, whole: bytes, other: bytes) -> bytes:
    """Damage the image ``whole`` up to four times. Parts of the image ``other`` may be inserted."""
    data = whole
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = data[:_LONGEST_BYTES]  # repeated damage must not make the file grow without limit
        data = rng.choice(_DAMAGES)(rng, data) if rng.random() < 0.85 else _splice(rng, data, other)
    return _mended(data) if rng.random() < 0.8 else data


def _flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_bits_of_the_header(rng: random.Random, data: bytes) -> bytes:
    return _flip_bits(rng, data[:64]) + data[64:]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _put_edge(rng: random.Random, data: bytes) -> bytes:
    """Overwrite some bytes, mostly near the start, with an extreme number such as 0 or 0xFFFF."""
    size = rng.choice((1, 2, 4))
    value: bytes = (rng.choice(_EDGES) & (256**size - 1)).to_bytes(size, rng.choice(("big", "little")))
    place = rng.randrange(max(1, min(len(data), rng.choice((64, 256, len(data) or 1)))))
    return data[:place] + value + data[place + size :]


def _drop(rng: random.Random, data: bytes) -> bytes:
    start, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 16, 256))
    return data[:start] + data[start + size :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 16, 256))
    return data[:start] + data[start : start + size] * rng.choice((2, 3, 100)) + data[start + size :]


def _swap_signature(rng: random.Random, data: bytes) -> bytes:
    signature = rng.choice(_SIGNATURES)
    return signature + data[len(signature) :]


def _shuffle_parts(rng: random.Random, data: bytes) -> bytes:
    """Move, repeat or remove segments or chunks."""
    parts = split(data)
    head, rest = parts[:1], parts[1:]
    for _ in range(rng.choice((1, 2, 5))):
        if rest:
            chosen = rng.randrange(len(rest))
            match rng.randrange(4):
                case 0:
                    rest.insert(rng.randrange(len(rest) + 1), rest[chosen])
                case 1:
                    del rest[chosen]
                case 2:
                    rest[chosen:chosen] = [rest[chosen]] * rng.choice((2, 20, 200))
                case _:
                    rest.insert(rng.randrange(len(rest)), rest.pop(chosen))
    return b"".join(head + rest)


def _change_entry(rng: random.Random, data: bytes) -> bytes:
    """Change a tag, type, count or value in the first directory of a TIFF. For other formats, call ``_put_edge``."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return _put_edge(rng, data)
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack(f"{order}I", data[4:8].ljust(4, b"\0"))
    (count,) = struct.unpack(f"{order}H", data[start : start + 2].ljust(2, b"\0"))
    place = start + 2 + 12 * rng.randrange(max(1, count))
    tag, kind, number, value = struct.unpack(f"{order}HHII", data[place : place + 12].ljust(12, b"\0"))
    match rng.randrange(4):
        case 0:
            tag = rng.choice((256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 339, 530))
        case 1:
            kind = rng.randrange(20)
        case 2:
            number = rng.choice(_EDGES)
        case _:
            value = rng.choice((*_EDGES, 4, 5, 6, 7, 8, 16, 32, 64, 32773, 32946, 34676, 34677, 50000))
    return data[:place] + struct.pack(f"{order}HHII", tag, kind, number, value) + data[place + 12 :]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    if rng.random() < 0.5:
        return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
    parts, strange = split(data), split(other)
    parts.insert(rng.randrange(len(parts)) + 1, rng.choice(strange))
    return b"".join(parts)


_DAMAGES: tuple[Damage, ...] = (
    _flip_bits,
    _flip_bits_of_the_header,
    _truncate,
    _put_edge,
    _put_edge,
    _drop,
    _repeat,
    _swap_signature,
    _shuffle_parts,
    _shuffle_parts,
    _change_entry,
    _change_entry,
)


def split(data: bytes) -> list[bytes]:
    """Split an image into its file header and its segments (JPEG) or chunks (PNG, WebP).

    Other formats are split into pieces of 64 bytes. Joining the parts gives the original file again.
    """
    if data.startswith(b"\x89PNG"):
        return _chunks(data, 8, lambda at: 12 + int.from_bytes(data[at : at + 4], "big"))
    if data.startswith(b"RIFF"):
        return _chunks(data, 12, lambda at: 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2)
    if data.startswith(b"\xff\xd8"):
        return _segments(data)
    return _chunks(data, 16, lambda at: 64)


def _chunks(data: bytes, head: int, size: Callable[[int], int]) -> list[bytes]:
    parts, start = [data[:head]], head
    while start < len(data):
        end = start + max(1, size(start))
        parts.append(data[start:end])
        start = end
    return parts


def _segments(data: bytes) -> list[bytes]:
    starts = [0] + [at for at in range(2, len(data) - 1) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def _mended(data: bytes) -> bytes:
    """Correct the checksums (PNG) or the total size (WebP), so that a decoder also reads the damaged parts."""
    if data.startswith(b"RIFF"):
        return data[:4] + struct.pack("<I", max(0, len(data) - 8)) + data[8:]
    if not data.startswith(b"\x89PNG"):
        return data
    head, *chunks = split(data)
    return head + b"".join(
        chunk[:-4] + struct.pack(">I", zlib.crc32(chunk[4:-4])) if len(chunk) >= 12 else chunk for chunk in chunks
    )


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _encoded(extension: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(extension, pixels, options)[1].tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, interlaced: bool = False) -> bytes:
    """Return a PNG of this size with these chunks between its header and its end."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + png_chunk(b"IEND", b"")


def _interlaced_png(pixels: np.ndarray) -> bytes:
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row for y, x, down, right in passes for row in pixels[y::down, x::right]]
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return png(_WIDTH_PX, _HEIGHT_PX, png_chunk(b"IDAT", data), interlaced=True)


def _run_length_bmp() -> bytes:
    """Return a run-length BMP with runs, literal pixels and jumps."""
    row = bytes([20, 7, 0, 4, 1, 2, 3, 4, _WIDTH_PX - 24, 9, 0, 0])
    data = row * (_HEIGHT_PX - 4) + bytes([0, 2, 3, 2, 5, 1, 0, 1])
    palette = bytes(value for number in range(256) for value in (number, 255 - number, number, 0))
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, _WIDTH_PX, _HEIGHT_PX, 1, 8, 1, len(data), 2835, 2835, 256, 256)
    return head + info + palette + data

"""Generators of WebP, GIF, AVIF and HEIC as phones and messengers send them."""

from __future__ import annotations

import importlib
import io
import random
import struct
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from scripts.trials.field.pictures import heif
from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.metadata import PREFIX, exif, xmp
from scripts.trials.field.pictures.scenes import LOSSLESS, LOSSY, Pixels, Sample, faint, noisy, size, smooth, upright

pillow_heif: Any
try:
    pillow_heif = importlib.import_module("pillow_heif")
except ImportError:  # without pillow-heif, HEIC is neither generated nor compared
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()


def webp(rng: random.Random) -> Sample:
    """Return a random WebP."""
    is_lossless, has_alpha = rng.random() < 0.5, rng.random() < 0.4
    pixels = smooth(rng)
    image = Image.fromarray(pixels)
    if has_alpha:
        image.putalpha(Image.fromarray(noisy(rng, pixels.shape[:2])))
    options: dict[str, object] = {"lossless": is_lossless, "quality": rng.randint(1, 100), "exact": True, "method": 2}
    is_animated = rng.random() < 0.15
    if is_animated:
        options |= {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    data = saved(image, "WEBP", **options)
    orientation = rng.randint(1, 8)
    block = exif(rng, orientation)
    about, chunks = rng.choice(
        (
            ("", []),
            (", EXIF", [(b"EXIF", block)]),
            (", EXIF with prefix", [(b"EXIF", PREFIX + block)]),
            (", EXIF with two prefixes", [(b"EXIF", PREFIX + PREFIX + block)]),
            (", XMP", [(b"XMP ", xmp(orientation))]),
        )
    )
    kind = f"WebP{', lossless' * is_lossless}{', alpha' * has_alpha}{', animated' * is_animated}{about}"
    truth = None
    if is_lossless and not (is_animated and has_alpha):
        truth = upright(pixels, orientation if chunks else 1)
    return Sample(kind, webp_with(data, pixels.shape, chunks), LOSSLESS if is_lossless else LOSSY, truth)


def webp_with(data: bytes, shape: tuple[int, ...], chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return a WebP with additional chunks."""
    if not chunks:
        return data
    body = data[12:]
    flags = 0x08 | 0x04
    if body.startswith(b"VP8X"):
        flags |= body[8]
        body = body[18:]
    elif body.startswith(b"VP8L") and body[12] & 0x10:
        flags |= 0x10
    height, width = shape[:2]
    head = struct.pack("<4sIB3x", b"VP8X", 10, flags) + b"".join(
        (side - 1).to_bytes(3, "little") for side in (width, height)
    )
    tail = b"".join(kind + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for kind, part in chunks)
    whole = b"WEBP" + head + body + tail
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def gif(rng: random.Random) -> Sample:
    """Return a random GIF."""
    pixels = smooth(rng)
    image = Image.fromarray(pixels).quantize(rng.choice((2, 3, 16, 200, 256)))
    truth = np.asarray(image.convert("RGB"))
    options: dict[str, object] = {"interlace": rng.randrange(2)}
    is_transparent, is_animated = rng.random() < 0.4, rng.random() < 0.3
    if is_transparent:
        options["transparency"] = 1
    if is_animated:
        options |= {
            "save_all": True,
            "append_images": [image.rotate(90), image.rotate(180)],
            "disposal": rng.randrange(4),
        }
    if rng.random() < 0.3:
        options["comment"] = b"\x2c\x21\x3b" * 200
    data = saved(image, "GIF", **options)
    if rng.random() < 0.2:
        data += rng.randbytes(100)
    return Sample(f"GIF{', transparent' * is_transparent}{', animated' * is_animated}", data, truth=truth)


def placed_gif(rng: random.Random) -> bytes:
    """Return a GIF whose first frame does not fill its logical screen."""
    image = Image.fromarray(smooth(rng, 20, 10)).quantize(16)
    data = bytearray(saved(image, "GIF"))
    data[6:10] = struct.pack("<HH", 40, 30)
    at = data.index(b"\x2c\0\0\0\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 7, 9)
    return bytes(data)


def avif(rng: random.Random) -> Sample:
    """Return a random AVIF."""
    pixels = smooth(rng, *(max(16, side) for side in size(rng)))
    image = Image.fromarray(pixels)
    sampling = rng.choice(("4:0:0", "4:2:0", "4:2:2", "4:4:4"))
    options: dict[str, object] = {"subsampling": sampling, "range": rng.choice(("full", "limited"))}
    options |= {"quality": rng.randint(30, 100), "speed": 10}
    about = rng.choice(("", ", alpha", ", turned", ", tiles", ", animated"))
    if about == ", alpha":
        image.putalpha(Image.fromarray(noisy(rng, pixels.shape[:2])))
    elif about == ", turned":
        block = Image.Exif()
        block[0x0112] = rng.randint(1, 8)
        options["exif"] = block
    elif about == ", tiles":
        return heif.tiled(rng, "AVIF")
    elif about == ", animated":
        options |= {"save_all": True, "append_images": [image.rotate(180)]}
    return Sample(f"AVIF, {sampling}{about}", saved(image, "AVIF", **options), LOSSY)


def heic(rng: random.Random) -> Sample | None:
    """Return a random HEIC, or None if pillow-heif, the encoder, is not installed."""
    if pillow_heif is None:
        return None
    # libheif takes the nearest chroma sample, while we interpolate. The results are similar only if the colours change
    # slowly.
    pixels = faint(smooth(rng, *(max(64, side) for side in size(rng))))
    chroma = rng.choice((420, 422, 444))
    about = rng.choice(("", ", alpha", ", grey", ", turned", ", tiles", ", thumbnail", ", two images"))
    image = Image.fromarray(pixels)
    options: dict[str, object] = {"quality": rng.randint(40, 95), "chroma": chroma}
    options |= {"full_range_flag": rng.randrange(2), "matrix_coefficients": rng.choice((1, 5, 6, 9))}
    if rng.random() < 0.15:
        return _deep_heic(rng, pixels)
    if about == ", alpha":
        image.putalpha(Image.fromarray(noisy(rng, pixels.shape[:2])))
    elif about == ", grey":
        image = image.convert("L")
        options["full_range_flag"] = 1  # libheif always reads grey as full range
    elif about == ", turned":
        # libheif loses the colour range of rotated 4:2:2 images.
        options["chroma"] = chroma = 444 if chroma == 422 else chroma
        still = heif.coded(saved(image, "HEIF", **options))
        turns = rng.choice(((heif.turn(90),), (heif.turn(180), heif.mirror(0)), (heif.mirror(1), heif.turn(270))))
        data = heif.file([replace(still, properties=still.properties + turns)])
        return Sample(f"HEIC, {chroma}{about}", data, LOSSY)
    elif about == ", tiles":
        return heif.tiled(rng, "HEIF")
    elif about == ", thumbnail":
        options["thumbnails"] = [32]
    elif about == ", two images":
        options |= {"save_all": True, "append_images": [image.rotate(180)]}
    return Sample(f"HEIC, {chroma}{about}", saved(image, "HEIF", **options), LOSSY)


def _deep_heic(rng: random.Random, pixels: Pixels) -> Sample:
    """Return a random HEIC with 10 or 12 bits per sample."""
    bits = rng.choice((10, 12))
    height, width = pixels.shape[:2]
    still = pillow_heif.from_bytes("RGB;16", (width, height), (pixels.astype(np.uint16) * 257).tobytes())
    pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
    buffer = io.BytesIO()
    still.save(buffer, quality=90)
    return Sample(f"HEIC, {bits} bits", buffer.getvalue(), LOSSY)


def opened(data: bytes) -> Image.Image:
    """Open a file with Pillow, which uses libheif for HEIC."""
    image: Image.Image = Image.open(io.BytesIO(data))
    return image

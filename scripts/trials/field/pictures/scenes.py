"""Generators of random pixels, and ``Sample``, which holds a generated file and its true pixels."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # axes: height, width, and the channels R, G and B
Array = NDArray[Any]

LOSSLESS, JPEG, LOSSY = "lossless", "JPEG", "lossy"


@dataclass(frozen=True)
class Sample:
    """A generated file and its true pixels."""

    name: str  # such as "BMP, 8 bits, top down"
    data: bytes
    loss: str = LOSSLESS  # the kind of compression, which limits how much the results of two decoders may differ
    truth: Pixels | None = None  # the pixels that a viewer shows; None if they are not known exactly
    is_for_pillow: bool = True  # False if Pillow reads such files wrongly even when they are intact
    whole: bytes | None = None  # the file before it was damaged


def smooth(rng: random.Random, width: int = 0, height: int = 0) -> Pixels:
    """Return slowly changing colours. A side of 0 stands for a random side from 1 to 97 pixels."""
    width, height = width or rng.randint(1, 97), height or rng.randint(1, 97)
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (4, 4, 3)).astype(np.float32)
    pixels = cv2.resize(noise, (max(width, 4), max(height, 4)), interpolation=cv2.INTER_CUBIC)
    clipped: Pixels = np.clip(pixels[:height, :width], 0, 255).astype(np.uint8)
    return clipped


def faint(pixels: Pixels) -> Pixels:
    """Return the image with a sixth of its colour saturation."""
    middle = pixels.mean(axis=2, keepdims=True)
    result: Pixels = np.rint(middle + (pixels - middle) / 6).astype(np.uint8)
    return result


def noisy(rng: random.Random, shape: tuple[int, ...], most: int = 255) -> Array:
    """Return random numbers from 0 to ``most``."""
    kind = np.uint8 if most < 256 else np.uint16
    return np.random.default_rng(rng.getrandbits(32)).integers(0, most + 1, shape).astype(kind)


def size(rng: random.Random) -> tuple[int, int]:
    """Return a random width and height."""
    return rng.randint(1, 97), rng.randint(1, 97)


def grey(values: Array) -> Pixels:
    """Return a grey image whose single channel is repeated three times."""
    return np.repeat(values[:, :, None], 3, axis=2).astype(np.uint8)


def eight_bits(values: Array, most: int) -> Pixels:
    """Scale numbers from the range 0 to ``most`` to the range 0 to 255."""
    return np.rint(values.astype(np.float64) * 255 / most).astype(np.uint8)


def packed(values: Array, bits: int) -> Array:
    """Pack numbers of 1, 2, 4, 8 or 16 bits into rows of bytes. The most significant byte comes first."""
    if bits == 16:
        return values.astype(">u2").view(np.uint8)
    if bits == 8:
        return values.astype(np.uint8)
    rows, columns = values.shape
    spread = np.unpackbits(values.astype(np.uint8)[:, :, None], axis=2)[:, :, 8 - bits :]
    return np.packbits(spread.reshape(rows, columns * bits), axis=1)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return the image turned as this EXIF orientation requires (Exif 2.32, section 4.6.4)."""
    rows_first = pixels if orientation <= 4 else pixels.transpose(1, 0, 2)
    down, across = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[
        orientation
    ]
    return np.ascontiguousarray(rows_first[::down, ::across])

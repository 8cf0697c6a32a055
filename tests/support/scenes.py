"""Generated frames of a fixed camera, and videos of such frames."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.types import Pixels

SIZE_PX = 384, 216  # width, height
_MARGIN_PX = 128  # there are this many squared different parts of a field of noise


def view(seed: int = 0, size_px: tuple[int, int] = SIZE_PX) -> Pixels:
    """Return a view that is full of objects: 80 rectangles and discs in random colours."""
    rng = np.random.default_rng(seed)
    width, height = size_px
    pixels = np.full((height, width, 3), 120, np.uint8)
    for _ in range(80):
        colour = rng.integers(40, 230, 3).tolist()
        x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        w, h = int(rng.uniform(0.02, 0.2) * width), int(rng.uniform(0.02, 0.1) * width)
        if rng.random() < 0.7:
            cv2.rectangle(pixels, (x, y), (x + w, y + h), colour, -1)
        else:
            cv2.circle(pixels, (x, y), h, colour, -1)
    return pixels


def filmed(pixels: Pixels, count: int, noise: float = 3.0, seed: int = 1) -> Iterator[Pixels]:
    """Yield ``count`` frames of a view, each with different noise.

    The noise of each frame is a random part of one large field, because new noise for each frame takes far longer.
    """
    rng = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    field = _noise(height + _MARGIN_PX, width + _MARGIN_PX, noise)
    for _ in range(count):
        y, x = rng.integers(0, _MARGIN_PX, 2)
        yield cv2.add(pixels, field[y : y + height, x : x + width], dtype=cv2.CV_8U)


@functools.cache
def _noise(height: int, width: int, deviation: float) -> NDArray[np.int16]:
    field = np.random.default_rng(0).standard_normal((height, width, 3), np.float32)
    noise: NDArray[np.int16] = np.rint(deviation * field).astype(np.int16)
    return noise


def save(path: Path, frames: Iterable[Pixels], fps: float) -> Path:
    """Save a lossless video of frames of ``SIZE_PX``."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), fps, SIZE_PX)
    for pixels in frames:
        writer.write(pixels)
    writer.release()
    return path

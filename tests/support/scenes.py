"""Generated frames of a fixed camera, and videos of such frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from serve_app.types import Pixels

SIZE_PX = 384, 216  # width, height


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
    """Yield ``count`` frames of a view, each with different noise."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield np.clip(pixels + noise * rng.standard_normal(pixels.shape, np.float32), 0, 255).astype(np.uint8)


def save(path: Path, frames: Iterable[Pixels], fps: float) -> Path:
    """Save a lossless video of frames of ``SIZE_PX``."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), fps, SIZE_PX)
    for pixels in frames:
        writer.write(pixels)
    writer.release()
    return path

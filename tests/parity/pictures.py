"""The pictures that parity is checked on: real ones, and sizes that are hard on a letterbox."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import ultralytics

ASSETS = Path(ultralytics.__file__).parent / "assets"


def shipped() -> list[Path]:
    """The two photographs that the ultralytics package ships."""
    return [ASSETS / "bus.jpg", ASSETS / "zidane.jpg"]


def save_extremes(folder: Path) -> list[Path]:
    """1x1, 1x4000, 4000x1 and 6000x4000 pictures, cut and enlarged from a shipped photograph."""
    photograph = cv2.imread(str(ASSETS / "zidane.jpg"))
    sizes = [(1, 1), (1, 4000), (4000, 1), (6000, 4000)]
    paths = [folder / f"{width}x{height}.jpg" for width, height in sizes]
    for path, size in zip(paths, sizes, strict=True):
        cv2.imwrite(str(path), cv2.resize(photograph, size, interpolation=cv2.INTER_CUBIC))
    return paths


def colourful(size_px: int = 640) -> np.ndarray:
    """Coloured noise in patches: something for randomly initialised weights to answer to."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (24, 32, 3), np.uint8)
    picture: np.ndarray = cv2.resize(patches, (size_px, size_px * 3 // 4))
    return picture

"""The images for parity tests: real photographs, and sizes that are difficult for a letterbox."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import ultralytics

ASSETS = Path(ultralytics.__file__).parent / "assets"


def shipped() -> list[Path]:
    """Return the two photographs in the ultralytics package."""
    return [ASSETS / "bus.jpg", ASSETS / "zidane.jpg"]


def save_extremes(folder: Path) -> list[Path]:
    """Save images of 1×1, 1×4000, 4000×1 and 6000×4000 px, resized from a photograph."""
    photograph = cv2.imread(str(ASSETS / "zidane.jpg"))
    sizes = [(1, 1), (1, 4000), (4000, 1), (6000, 4000)]
    paths = [folder / f"{width}x{height}.jpg" for width, height in sizes]
    for path, size in zip(paths, sizes, strict=True):
        cv2.imwrite(str(path), cv2.resize(photograph, size, interpolation=cv2.INTER_CUBIC))
    return paths


def colourful(size_px: int = 640) -> np.ndarray:
    """Return patches of coloured noise, in which randomly initialised weights find objects."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (24, 32, 3), np.uint8)
    picture: np.ndarray = cv2.resize(patches, (size_px, size_px * 3 // 4))
    return picture

"""Images for parity tests, including sizes that are difficult to letterbox."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage
import sklearn
import ultralytics

ASSETS = Path(ultralytics.__file__).parent / "assets"


def shipped() -> list[Path]:
    """Return the two photographs that the ultralytics package contains."""
    return [ASSETS / "bus.jpg", ASSETS / "zidane.jpg"]


def photographs() -> list[np.ndarray]:
    """Return two photographs with many details, one of them in portrait format."""
    china = cv2.imread(str(Path(sklearn.__file__).parent / "datasets/images/china.jpg"))
    coffee = cv2.imread(str(Path(skimage.__file__).parent / "data/coffee.png"))
    assert china is not None
    assert coffee is not None
    return [china, cv2.rotate(coffee, cv2.ROTATE_90_CLOCKWISE)]


def save_extremes(folder: Path) -> list[Path]:
    """Resize a photograph to 1×1, 1×4000, 4000×1 and 6000×4000 px, and save the results."""
    photograph = cv2.imread(str(ASSETS / "zidane.jpg"))
    sizes = [(1, 1), (1, 4000), (4000, 1), (6000, 4000)]
    paths = [folder / f"{width}x{height}.jpg" for width, height in sizes]
    for path, size in zip(paths, sizes, strict=True):
        cv2.imwrite(str(path), cv2.resize(photograph, size, interpolation=cv2.INTER_CUBIC))
    return paths


def colourful(size_px: int = 640) -> np.ndarray:
    """Return an image of coloured patches, in which even randomly initialised weights find objects."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (24, 32, 3), np.uint8)
    picture: np.ndarray = cv2.resize(patches, (size_px, size_px * 3 // 4))
    return picture

"""The images that the load generator sends, as JPEG.

The default set has photographs of mixed sizes. The other sets have images of one shape: the photographs of a folder,
cropped or composed, or scenes that are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from scripts.benchmark.mosaics import mosaic
from scripts.codes.scenes import Scene, random_scene
from scripts.codes.surfaces import HELD_OUT, TRAINING, Picture, package_files, read_photograph

MIXED = "mixed"
MEGAPIXELS = "12-megapixel"
_RATIOS = {"4:3": (4, 3), "3:2": (3, 2), "16:9": (16, 9), MEGAPIXELS: (4, 3)}
SETS = (MIXED, *_RATIOS)

_QUALITY = 90  # JPEG quality of encoded images
_SCENES = {MEGAPIXELS: 6}  # number of drawn scenes, by set; drawing one of 12 megapixels takes three seconds
_MANY_SCENES = 12
_SCENE_WIDTH_PX = {MEGAPIXELS: 4000}
_USUAL_WIDTH_PX = 1280
_MOSAIC_PX = 4000, 3000  # width and height
_MOSAICS = 6


def save_photographs(source: Path | None, folder: Path, name: str = MIXED) -> Path:
    """Delete all files in ``folder``, save ``photographs(source, name)`` there, and return ``folder``."""
    encoded = photographs(source, name)  # before the folder is emptied, because it may be the source
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, data in enumerate(encoded):
        (folder / f"{number:04}.jpg").write_bytes(data)
    return folder


def photographs(folder: Path | None, name: str = MIXED) -> list[bytes]:
    """Return the set of JPEGs ``name``, which is one of ``SETS``.

    The set ``mixed`` has the JPEGs in ``folder``, or the photographs in installed packages if ``folder`` is None. For
    the sets with a ratio, the JPEGs in ``folder`` are cropped to that ratio and keep their orientation. For the set
    ``12-megapixel``, they are put together at their own size. Without a folder, scenes are drawn for these sets. Raise
    FileNotFoundError if the folder has no JPEGs.
    """
    files = [] if folder is None else sorted(folder.glob("*.jp*g"))
    if folder is not None and not files:
        raise FileNotFoundError(f"{folder} has no JPEG files: add some, or choose another folder")
    if name == MIXED and files:
        return [path.read_bytes() for path in files]
    if name == MIXED:
        pictures = [read_photograph(photograph) for photograph in TRAINING.photographs + HELD_OUT.photographs]
        shipped = [path.read_bytes() for path in package_files("ultralytics/assets")]
        return [*(_encode(pixels) for pixels in pictures), *shipped]
    read = [pixels for path in files if (pixels := cv2.imread(str(path), cv2.IMREAD_COLOR)) is not None]
    if name == MEGAPIXELS and files:
        tiles = [Scene(pixels, ()) for pixels in read]
        return [_encode(mosaic(tiles, _MOSAIC_PX, np.random.default_rng(seed)).pixels) for seed in range(_MOSAICS)]
    return [_encode(cropped(pixels, _RATIOS[name])) for pixels in read or _scenes(name)]


def sizes(folder: Path) -> Counter[tuple[int, int]]:
    """Return how many images in the folder have each size (width, height) in pixels."""
    pictures = (cv2.imread(str(path), cv2.IMREAD_COLOR) for path in folder.iterdir())
    return Counter((pixels.shape[1], pixels.shape[0]) for pixels in pictures if pixels is not None)


def cropped(pixels: Picture, ratio: tuple[int, int]) -> Picture:
    """Return the middle of an image, with the ratio of its longer to its shorter side."""
    height_px, width_px = pixels.shape[:2]
    longer, shorter = ratio
    across, down = (longer, shorter) if width_px >= height_px else (shorter, longer)
    inner_width_px = min(width_px, height_px * across // down)
    inner_height_px = min(height_px, width_px * down // across)
    left, top = (width_px - inner_width_px) // 2, (height_px - inner_height_px) // 2
    return pixels[top : top + inner_height_px, left : left + inner_width_px]


def _scenes(name: str) -> Iterator[Picture]:
    """Draw the square scenes of a set."""
    for seed in range(_SCENES.get(name, _MANY_SCENES)):
        side_px = _SCENE_WIDTH_PX.get(name, _USUAL_WIDTH_PX)
        yield random_scene(np.random.default_rng(seed), HELD_OUT, side_px).pixels


def _encode(pixels: Picture) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()

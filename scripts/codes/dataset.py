"""Generate datasets in the format of Ultralytics.

An image depends only on the seed, the split and the image's index.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import yaml
from rich.progress import track

from scripts.codes.scenes import Scene, random_scene
from scripts.codes.surfaces import HELD_OUT, TRAINING, Look
from scripts.codes.symbols import LABELS


@dataclass(frozen=True)
class Split:
    """A set of images with the same ``Look``. ``number`` is part of the random seed, so no two splits are alike."""

    name: str
    number: int
    look: Look
    pictures: int


TRAIN = Split("train", 0, TRAINING, 15_000)
# Training reports the accuracy on the validation images, but does not use it to choose a checkpoint.
VALIDATION = Split("val", 1, TRAINING, 300)
# The test images use other photographs, materials and fonts than the training images. Their distortions are stronger.
TEST = Split("test", 2, HELD_OUT, 1_000)


def scene(seed: int, split: Split, index: int, size_px: int) -> Scene:
    """Generate one image of a split."""
    return random_scene(np.random.default_rng([seed, split.number, index]), split.look, size_px)


def write_dataset(folder: Path, splits: tuple[Split, ...], seed: int, size_px: int) -> Path:
    """Write images and labels in YOLO's layout, and return the path of data.yaml."""
    for split in splits:
        for part in ("images", "labels"):
            shutil.rmtree(folder / part / split.name, ignore_errors=True)  # remove the images of an earlier run
            (folder / part / split.name).mkdir(parents=True)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            write = partial(_write_picture, folder, seed, split, size_px)
            done = pool.map(write, range(split.pictures), chunksize=50)
            for _ in track(done, f"{split.name}: making images", total=split.pictures):
                pass
    data = folder / "data.yaml"
    paths = {split.name: f"images/{split.name}" for split in splits}
    data.write_text(yaml.safe_dump({"path": str(folder.resolve()), **paths, "names": dict(enumerate(LABELS))}))
    return data


def _write_picture(folder: Path, seed: int, split: Split, size_px: int, index: int) -> None:
    cv2.setNumThreads(1)
    made = scene(seed, split, index, size_px)
    path = folder / "images" / split.name / f"{index:06}.jpg"
    if not cv2.imwrite(str(path), made.pixels, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise OSError(f"{path} cannot be written: check the free disk space")
    lines = []
    for truth in made.truths:
        x1, y1, x2, y2 = (side / size_px for side in truth.box)
        lines.append(f"{LABELS.index(truth.label)} {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}")
    (folder / "labels" / split.name / f"{index:06}.txt").write_text("\n".join(lines))

"""Write scenes as a data set in the format that Ultralytics reads for each task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from scripts.shapes.scenes import KEYPOINTS, KINDS, LABELS, Scene, Shape, portrait, scene

SIZE_PX = 128  # the longer side of the images
_SHORTER_PX = 96  # the shorter side of images that Ultralytics letterboxes
_PORTRAIT_SIZE_PX = 192, 144  # of the images of the model that classifies; their centre is cropped and scaled
_PORTRAITS = 2  # how many times as many images the model that classifies needs
_SPLITS = {"train": 1600, "val": 64}  # the number of images


def write_dataset(folder: Path, task: str, seed: int) -> Path:
    """Generate the data set of one task in an empty folder. Return what ``data`` in Ultralytics' settings must be."""
    for number, (split, count) in enumerate(_SPLITS.items()):
        rng = np.random.default_rng((seed, number))
        if task == "classify":
            images = (portrait(rng, *_PORTRAIT_SIZE_PX) for _ in range(count * _PORTRAITS))
            write_portraits(folder / split, images)
        else:
            write_split(folder, split, task, _scenes(rng, task, count))
    return folder if task == "classify" else describe(folder, task)


def write_portraits(folder: Path, images: Iterable[Scene]) -> None:
    """Write the images of one split of task classify into a folder for each class."""
    for label in LABELS["classify"]:
        (folder / label).mkdir(parents=True)
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / image.label / f"{index}.png"), image.pixels)


def _scenes(rng: np.random.Generator, task: str, count: int) -> Iterator[Scene]:
    """Yield scenes, of which half are squares. A quarter also have shapes that the model should not find."""
    for index in range(count):
        kinds = LABELS[task] if index % 4 else KINDS
        yield scene(rng, SIZE_PX, SIZE_PX if index % 2 else _SHORTER_PX, kinds)


def write_split(folder: Path, split: str, task: str, images: Iterable[Scene]) -> None:
    """Write the images of one split and their labels. ``task`` is not classify."""
    pictures, labels = folder / "images" / split, folder / "labels" / split
    pictures.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index, image in enumerate(images):
        cv2.imwrite(str(pictures / f"{index}.png"), image.pixels)
        (labels / f"{index}.txt").write_text("".join(f"{line}\n" for line in _lines(image, task)))


def describe(folder: Path, task: str) -> Path:
    """Write the YAML file that describes a data set, and return its path."""
    description = {
        "path": str(folder),
        **{split: f"images/{split}" for split in _SPLITS},
        "names": dict(enumerate(LABELS[task])),
    }
    if task == "pose":
        description |= {
            "kpt_shape": [len(KEYPOINTS), 3],
            "kpt_names": {class_id: list(KEYPOINTS) for class_id in range(len(LABELS[task]))},
            "kpt_oks_sigmas": [0.2] * len(KEYPOINTS),  # how exact keypoints must be, relative to the size of the shape
            "flip_idx": [KEYPOINTS.index(name) for name in ("tip", "left", "tail", "right")],
        }
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(description))
    return path


def _lines(image: Scene, task: str) -> Iterator[str]:
    """Yield a line for each shape: its class id, and coordinates relative to the image's width and height."""
    height, width = image.pixels.shape[:2]
    for shape in image.shapes:
        if shape.kind in LABELS[task]:
            values = _coordinates(shape, task, np.array((width, height)))
            yield " ".join([str(LABELS[task].index(shape.kind)), *(f"{value:.6f}" for value in values)])


def _coordinates(shape: Shape, task: str, size: NDArray[np.int_]) -> Iterable[float]:
    """Return the coordinates of a shape in the order of the task's format."""
    if task == "obb":
        return (shape.corners / size).ravel().tolist()
    if task == "segment":
        return (_closed(shape) / size).ravel().tolist()
    box = np.array(shape.xyxy).reshape(2, 2) / size
    values = [*box.mean(axis=0), *(box[1] - box[0])]
    if task == "pose":
        values += [value for x, y in shape.keypoints / size for value in (x, y, 2)]  # 2: the keypoint is visible
    return values


def _closed(shape: Shape) -> NDArray[np.float64]:
    """Return one outline, with shape (n, 2). It goes around a hole as well, from the first point and back to it."""
    if shape.hole is None:
        return shape.outline
    return np.concatenate([shape.outline, shape.outline[:1], shape.hole[:1], shape.hole[::-1]])

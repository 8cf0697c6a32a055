"""Models that return the same objects for every image, with or without masks, and take hardly any time to do so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.trials.field.models.constant import save
from serve_app.models.tasks.segment import PROTOTYPE_PX
from serve_app.types import Task

SIDE_PX = 640
CLASSES = 80
_CELLS = 8400  # of a YOLOv8 with this input
_PROTOTYPES = 32
_DUPLICATES = 8  # candidates of each object
# The least and the greatest side of an object. They cover a similar part of the image, whatever their number.
_SIDES_PX = {5: (90, 300), 100: (30, 90)}

Array = NDArray[np.float32]


def save_model(path: Path, task: Task, objects: int) -> Path:
    """Write an ONNX model with the outputs of a YOLOv8 that finds ``objects`` objects in every image.

    Both tasks get the same boxes. With ``segment``, each object also has a mask that looks like an ellipse.
    """
    rng = np.random.default_rng(objects)
    boxes = _boxes(rng, objects)
    prototypes = _prototypes()
    output = np.zeros((4 + CLASSES + _PROTOTYPES, _CELLS), np.float32)
    places = rng.choice(_CELLS, (objects, _DUPLICATES), replace=False)
    for box, own in zip(boxes, places, strict=True):
        output[:4, own] = box[:, None] + rng.normal(0, 0.01, (4, _DUPLICATES)) * box[2:].min()
        output[4 + rng.integers(CLASSES), own] = rng.uniform(0.55, 0.95, _DUPLICATES)
        output[4 + CLASSES :, own] = _coefficients(box, prototypes)[:, None]
    names = repr({class_id: f"class {class_id}" for class_id in range(CLASSES)})
    outputs = [output[None, : 4 + CLASSES]] if task == "detect" else [output[None], prototypes[None]]
    return save(path, *outputs, names=names, metadata={"task": task}, sides=(1, 3, SIDE_PX, SIDE_PX))


def _boxes(rng: np.random.Generator, count: int) -> Array:
    """Return boxes, ``(count, 4)``: centre x, centre y, width, height. None is a duplicate of another one."""
    least, most = _SIDES_PX[count]
    found: list[Array] = []
    while len(found) < count:
        size = rng.uniform(least, most, 2)
        box = np.concatenate([rng.uniform(size / 2, SIDE_PX - size / 2), size]).astype(np.float32)
        if all(np.abs(box[:2] - other[:2]).max() > min(box[2:].min(), other[2:].min()) / 3 for other in found):
            found.append(box)
    return np.array(found)


def _prototypes() -> Array:
    """Return waves of several lengths and directions, ``(prototypes, rows, columns)``."""
    rng = np.random.default_rng(0)
    side = SIDE_PX // PROTOTYPE_PX
    y, x = np.mgrid[:side, :side] * PROTOTYPE_PX
    period_px, direction, phase = rng.uniform(60, 500, 32), rng.uniform(0, np.pi, 32), rng.uniform(0, 2 * np.pi, 32)
    along = np.cos(direction)[:, None, None] * x + np.sin(direction)[:, None, None] * y
    waves: Array = np.sin(2 * np.pi * along / period_px[:, None, None] + phase[:, None, None]).astype(np.float32)
    waves[0] = 1
    return waves


def _coefficients(box: Array, prototypes: Array) -> Array:
    """Return the coefficients, ``(prototypes,)``, with which the mask in a box comes near to an ellipse."""
    left, top = ((box[:2] - box[2:] / 2) / PROTOTYPE_PX).astype(int)
    right, bottom = np.ceil((box[:2] + box[2:] / 2) / PROTOTYPE_PX).astype(int)
    y, x = np.mgrid[top:bottom, left:right] * PROTOTYPE_PX + PROTOTYPE_PX / 2
    distance = np.hypot((x - box[0]) / box[2], (y - box[1]) / box[3]) * 2
    waves = prototypes[:, top:bottom, left:right].reshape(_PROTOTYPES, -1)
    solution: Array = np.linalg.lstsq(waves.T, np.clip(1 - distance, -0.5, 0.5).ravel(), rcond=0.01)[0]
    return solution.astype(np.float32)

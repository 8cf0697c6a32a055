"""Raw outputs for tests of the tasks, with many boxes that overlap, and the properties of their engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from serve_app.types import EngineInfo, InputShape, Task

SIDE_PX = 640
CLASSES = 7


def info_of(task: Task, *, keypoints: int = 0, end_to_end: bool = False) -> EngineInfo:
    """Return the properties of a model with 7 classes."""
    labels = tuple(f"class {class_id}" for class_id in range(CLASSES))
    info = EngineInfo("raw", "v1", "none", labels, InputShape.square(SIDE_PX), end_to_end=end_to_end, task=task)
    return replace(info, keypoints=tuple(f"keypoint {number}" for number in range(keypoints)))


def crowded(seed: int, *, extras: NDArray[np.float32] | None = None, anchors: int = 900) -> NDArray[np.float32]:
    """Return the raw output of a head with anchors, ``(4 + classes + extras, anchors)``.

    ``extras``: the further numbers of the task, ``(extras, anchors)``.
    """
    rng = np.random.default_rng(seed)
    centre = rng.choice(np.linspace(100, 500, 6), (2, anchors)) + rng.normal(0, 6, (2, anchors))
    size = rng.uniform(40, 90, (2, anchors))
    scores = rng.beta(0.5, 3, (CLASSES, anchors))
    further = [] if extras is None else [extras]
    return np.concatenate([centre, size, scores, *further]).astype(np.float32)

"""The task ``obb``: a rotated box for each object ("oriented bounding box")."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections
from serve_app.images.rotated_boxes import hull_of
from serve_app.models.engines import RawOutput
from serve_app.models.tasks.candidates import find_candidates
from serve_app.models.tasks.suppression import suppress_rotated
from serve_app.types import DetectOptions, EngineInfo


def extras(raw: RawOutput, info: EngineInfo) -> int:
    """Return how many further numbers the task adds to each candidate: the angle."""
    return 1


def to_detections(raw: RawOutput, info: EngineInfo, options: DetectOptions) -> Detections:
    """Return the detections with their rotated boxes: see ``models.tasks.to_detections``.

    ``raw`` has one array: see ``find_candidates``. Its only extra is the angle.
    """
    (candidates,) = raw
    found = find_candidates(candidates, info, options, extras=extras(raw, info), rotated=True)
    kept = suppress_rotated(found, info, options)
    rotated = _regularised(np.concatenate([kept.boxes, kept.extras], axis=1))
    return replace(kept.to_detections(), xyxy=hull_of(rotated), rotated=rotated)


def _regularised(xywhr: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the same boxes with angles from 0 up to, but not including, π/2: Ultralytics' ``regularize_rboxes``."""
    width, height, angle = xywhr[:, 2], xywhr[:, 3], xywhr[:, 4]
    is_swapped = angle % math.pi >= math.pi / 2
    sides = np.where(is_swapped, height, width), np.where(is_swapped, width, height)
    return np.column_stack([xywhr[:, :2], *sides, angle % (math.pi / 2)])

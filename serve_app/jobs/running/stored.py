"""The detections in a stored result, for drawing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections, Mask, Ranking, Rle
from serve_app.outlines import mask_of_rings, mask_of_rle
from serve_app.schemas.detect import ClassConfidence, Detection
from serve_app.schemas.jobs import JobResult


def detections_of(result: str) -> Detections:
    """Return the detections in the JSON of a ``JobResult``, with everything that its model's task has added.

    Masks that are stored as outlines have no holes.
    """
    stored = JobResult.model_validate_json(result)
    found = stored.detections
    boxes = [(each.bbox.x1, each.bbox.y1, each.bbox.x2, each.bbox.y2) for each in found]
    detections = Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([each.confidence for each in found], np.float32),
        np.array([each.class_id for each in found], np.int32),
        tuple(each.label for each in found),
        classes=None if stored.classes is None else _ranking(stored.classes),
    )
    masks = [_mask(each) for each in found]
    keypoints = [each.keypoints for each in found if each.keypoints is not None]
    rotated = [_rotated(each) for each in found if each.obb is not None]
    return replace(
        detections,
        masks=tuple(mask for mask in masks if mask is not None) or None,
        keypoints=np.array(keypoints, np.float32) if keypoints else None,
        rotated=np.array(rotated, np.float32) if rotated else None,
    )


def _mask(found: Detection) -> Mask | None:
    if found.mask is not None:
        height_px, width_px = found.mask.size
        return mask_of_rle(Rle(height_px, width_px, found.mask.counts))
    if found.segments is not None:
        return mask_of_rings([[list(point) for point in ring] for ring in found.segments])
    return None


def _rotated(found: Detection) -> list[float]:
    """Return a rotated box as its centre, width, height and angle, from its corners: see ``Detections.corners``."""
    assert found.obb is not None
    corners: NDArray[np.float64] = np.array(list(found.obb.model_dump().values())).reshape(4, 2)
    first, second, third, _ = corners
    width, height = np.linalg.norm(second - third), np.linalg.norm(first - second)
    return [*corners.mean(0).tolist(), float(width), float(height), found.angle or 0.0]


def _ranking(classes: list[ClassConfidence]) -> Ranking:
    return Ranking(
        np.array([each.class_id for each in classes], np.int32),
        np.array([each.confidence for each in classes], np.float32),
        tuple(each.label for each in classes),
    )

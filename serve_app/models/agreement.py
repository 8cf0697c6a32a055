"""Compare the results of two engines for one image, with tolerances for rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections, Mask, Ranking
from serve_app.models.tasks.suppression import probiou

# A detection needs a match only if its confidence exceeds THRESHOLD by more than CONFIDENCE_TOLERANCE.
THRESHOLD = 0.3
CONFIDENCE_TOLERANCE = 0.03
_MIN_IOU = 0.9
_MAX_SHIFT_PX = 2.0  # of a keypoint, in pixels of the model input
_CLEAR = 0.5  # the confidence above which the position of a keypoint matters


def agree(some: Detections, others: Detections) -> bool:
    """Return whether every clear detection of one engine has a match of the other engine, and vice versa.

    A match has the same class, and almost the same confidence, box, mask, keypoints and rotated box. Two rankings of
    classes agree if no clear probability differs.
    """
    if some.classes is not None and others.classes is not None:
        return _all_ranked(some.classes, others.classes) and _all_ranked(others.classes, some.classes)
    return _all_found(some, others) and _all_found(others, some)


def _all_found(some: Detections, others: Detections) -> bool:
    free = np.ones(len(others), bool)
    for index, (xyxy, confidence, class_id) in enumerate(zip(some.xyxy, some.confidence, some.class_id, strict=True)):
        same = (
            free
            & (others.class_id == class_id)
            & (np.abs(others.confidence - confidence) <= CONFIDENCE_TOLERANCE)
            & (_iou(xyxy, others.xyxy) >= _MIN_IOU)
        )
        match = next((one for one in np.flatnonzero(same) if _is_alike(some, index, others, int(one))), None)
        if match is not None:
            free[match] = False
        elif confidence > THRESHOLD + CONFIDENCE_TOLERANCE:
            return False
    return True


def _is_alike(some: Detections, index: int, others: Detections, other: int) -> bool:
    """Return whether two objects have almost the same mask, keypoints and rotated box, if they have any."""
    if some.masks is not None and others.masks is not None:
        return _mask_iou(some.masks[index], others.masks[other]) >= _MIN_IOU
    if some.keypoints is not None and others.keypoints is not None:
        one, two = some.keypoints[index], others.keypoints[other]
        is_clear = (one[:, 2] > _CLEAR) & (two[:, 2] > _CLEAR)
        return bool((np.linalg.norm(one[:, :2] - two[:, :2], axis=1)[is_clear] <= _MAX_SHIFT_PX).all())
    if some.rotated is not None and others.rotated is not None:
        return bool(probiou(some.rotated[[index]], others.rotated[[other]])[0] >= _MIN_IOU)
    return True


def _all_ranked(some: Ranking, others: Ranking) -> bool:
    other_confidence = dict(zip(others.class_id.tolist(), others.confidence.tolist(), strict=True))
    return all(
        abs(other_confidence.get(class_id, 0.0) - confidence) <= CONFIDENCE_TOLERANCE
        for class_id, confidence in zip(some.class_id.tolist(), some.confidence.tolist(), strict=True)
        if confidence > THRESHOLD + CONFIDENCE_TOLERANCE
    )


def _iou(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the IoU of one box, ``(4,)``, with each of several boxes, ``(n, 4)``."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    iou: NDArray[np.float32] = shared / np.maximum(union, 1e-9)
    return iou


def _mask_iou(one: Mask, other: Mask) -> float:
    """Return the IoU of two masks that are in pixels of the same model input."""
    left, top, right, bottom = (
        int(choose(a, b)) for choose, a, b in zip((max, max, min, min), one.xyxy, other.xyxy, strict=True)
    )
    shared = 0
    if left < right and top < bottom:
        parts = [
            mask.bits[
                top - int(mask.xyxy[1]) : bottom - int(mask.xyxy[1]),
                left - int(mask.xyxy[0]) : right - int(mask.xyxy[0]),
            ]
            for mask in (one, other)
        ]
        shared = int((parts[0] & parts[1]).sum())
    union = int(one.bits.sum()) + int(other.bits.sum()) - shared
    return shared / max(union, 1)

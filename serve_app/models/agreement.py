"""Compare the detections of two engines in one image, with tolerances for rounding."""

from __future__ import annotations

import numpy as np

from serve_app.detections import Detections

# A detection needs a match only if its confidence exceeds THRESHOLD by more than CONFIDENCE_TOLERANCE.
THRESHOLD = 0.3
CONFIDENCE_TOLERANCE = 0.03
_MIN_IOU = 0.9


def agree(some: Detections, others: Detections) -> bool:
    """Return whether every clear detection of one engine has a match of the other engine, and vice versa.

    A match has the same class, and almost the same box and confidence.
    """
    return _all_found(some, others) and _all_found(others, some)


def _all_found(some: Detections, others: Detections) -> bool:
    free = np.ones(len(others), bool)
    for xyxy, confidence, class_id in zip(some.xyxy, some.confidence, some.class_id, strict=True):
        same = (
            free
            & (others.class_id == class_id)
            & (np.abs(others.confidence - confidence) <= CONFIDENCE_TOLERANCE)
            & (_iou(xyxy, others.xyxy) >= _MIN_IOU)
        )
        if same.any():
            free[same.argmax()] = False
        elif confidence > THRESHOLD + CONFIDENCE_TOLERANCE:
            return False
    return True


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the IoU of one box, ``(4,)``, with each of several boxes, ``(n, 4)``."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    iou: np.ndarray = shared / np.maximum(union, 1e-9)
    return iou

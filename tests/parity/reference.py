"""Predict with Ultralytics as the reference, and compare detections with the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics import YOLO

THRESHOLD = 0.3
CONFIDENCE_TOLERANCE = 0.03
IOU_TOLERANCE = 0.9
HIGH = 0.5  # the confidence of the boxes that two shapes of model inputs should have in common


@dataclass(frozen=True)
class Found:
    """One detection, by Sightline or by Ultralytics."""

    label: str
    confidence: float
    xyxy: tuple[float, float, float, float]


def predict(model: YOLO, picture: Path | np.ndarray, *, size_px: int | tuple[int, int] = 640) -> list[Found]:
    """Return Ultralytics' detections above ``THRESHOLD - CONFIDENCE_TOLERANCE``.

    ``size_px`` is the size of the model input: the side of a square, or (height, width).
    """
    return _predict(model, picture, rect=False, imgsz=size_px)


def _predict(model: YOLO, picture: Path | np.ndarray, **options: Any) -> list[Found]:
    confidence = THRESHOLD - CONFIDENCE_TOLERANCE
    (result,) = model.predict(picture, iou=0.7, max_det=300, conf=confidence, verbose=False, device="cpu", **options)
    boxes = result.boxes
    return [
        Found(result.names[int(class_id)], float(confidence), (float(x1), float(y1), float(x2), float(y2)))
        for class_id, confidence, (x1, y1, x2, y2) in zip(boxes.cls, boxes.conf, boxes.xyxy, strict=True)
    ]


def predict_default(model: YOLO, picture: Path | np.ndarray) -> list[Found]:
    """Return the same detections, but with the model input that Ultralytics itself chooses for a ``.pt`` file."""
    return _predict(model, picture, rect=True, imgsz=640)


def share_of_matches(some: list[list[Found]], others: list[list[Found]]) -> tuple[int, int]:
    """Return how many boxes above ``HIGH`` have a match in the other list, and how many boxes there are.

    Both lists have the detections of one image after the other. Boxes of both lists are counted.
    """
    boxes = unmatched = 0
    for pair in zip(some, others, strict=True):
        for ours, theirs in (pair, reversed(pair)):
            boxes += sum(found.confidence > HIGH for found in ours)
            unmatched += len(_unmatched(ours, theirs, above=HIGH))
    return boxes - unmatched, boxes


def disagreements(ours: list[Found], theirs: list[Found]) -> list[str]:
    """Describe each detection above ``THRESHOLD + CONFIDENCE_TOLERANCE`` that only one implementation found."""
    return [
        *(f"only we: {found}" for found in _unmatched(ours, theirs)),
        *(f"only Ultralytics: {found}" for found in _unmatched(theirs, ours)),
    ]


def _unmatched(
    some: list[Found], others: list[Found], *, above: float = THRESHOLD + CONFIDENCE_TOLERANCE
) -> list[Found]:
    """Return the detections in ``some`` without a match in ``others``, if their confidence is ``above`` a threshold."""
    left = list(others)
    unmatched = []
    for found in some:
        match = next((other for other in left if _agree(found, other)), None)
        if match is not None:
            left.remove(match)
        elif found.confidence > above:
            unmatched.append(found)
    return unmatched


def _agree(a: Found, b: Found) -> bool:
    return (
        a.label == b.label
        and abs(a.confidence - b.confidence) <= CONFIDENCE_TOLERANCE
        and _iou(a.xyxy, b.xyxy) >= IOU_TOLERANCE
    )


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width < 0 or height < 0:
        return 0.0
    shared = width * height
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / union if union > 0 else float(a == b)

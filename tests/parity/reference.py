"""Predict with Ultralytics as the reference, and compare detections with the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ultralytics import YOLO

THRESHOLD = 0.3
CONFIDENCE_TOLERANCE = 0.03
IOU_TOLERANCE = 0.9


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
    confidence = THRESHOLD - CONFIDENCE_TOLERANCE
    (result,) = model.predict(
        picture, imgsz=size_px, rect=False, iou=0.7, max_det=300, conf=confidence, verbose=False, device="cpu"
    )
    boxes = result.boxes
    return [
        Found(result.names[int(class_id)], float(confidence), (float(x1), float(y1), float(x2), float(y2)))
        for class_id, confidence, (x1, y1, x2, y2) in zip(boxes.cls, boxes.conf, boxes.xyxy, strict=True)
    ]


def disagreements(ours: list[Found], theirs: list[Found]) -> list[str]:
    """Describe each detection above ``THRESHOLD + CONFIDENCE_TOLERANCE`` that only one implementation found."""
    return [
        *(f"only we: {found}" for found in _unmatched(ours, theirs)),
        *(f"only Ultralytics: {found}" for found in _unmatched(theirs, ours)),
    ]


def _unmatched(some: list[Found], others: list[Found]) -> list[Found]:
    """Return the detections in ``some`` without a match in ``others``, except those close to the threshold."""
    left = list(others)
    unmatched = []
    for found in some:
        match = next((other for other in left if _agree(found, other)), None)
        if match is not None:
            left.remove(match)
        elif found.confidence > THRESHOLD + CONFIDENCE_TOLERANCE:
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

"""Raw output -> Detections, for both YOLO heads. numpy and OpenCV only, over candidates above the threshold."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.types import Detections, DetectOptions

MAX_CANDIDATES = 3000  # the most confident ones before NMS: bounds the time that a noisy picture can take
_CLASS_OFFSET_PX = 7680.0  # moves each class's boxes apart, so that NMS never compares two classes (as Ultralytics)


def to_detections(raw: NDArray[np.float32], options: DetectOptions, *, end_to_end: bool) -> Detections:
    """Detections in model-input pixels, the most confident first.

    ``raw`` is ``(4 + classes, anchors)``: centre x, centre y, width, height and one score a class; or, for an
    end-to-end model, ``(n, 6)``: left, top, right, bottom, confidence, class id, sorted by confidence.
    """
    return _from_rows(raw, options) if end_to_end else _from_anchors(raw, options)


def _from_rows(raw: NDArray[np.float32], options: DetectOptions) -> Detections:
    rows = raw[raw[:, 4] > options.confidence]
    class_id = rows[:, 5].astype(np.int32)
    if options.class_ids is not None:
        wanted = np.isin(class_id, options.class_ids)
        rows, class_id = rows[wanted], class_id[wanted]
    n = options.max_detections
    return Detections(rows[:n, :4].astype(np.float32), rows[:n, 4].astype(np.float32), class_id[:n])


def _from_anchors(raw: NDArray[np.float32], options: DetectOptions) -> Detections:
    scores = raw[4:]
    best = scores.max(axis=0)
    candidates = np.flatnonzero(best > options.confidence)
    class_id = scores[:, candidates].argmax(axis=0).astype(np.int32)
    if options.class_ids is not None:
        wanted = np.isin(class_id, options.class_ids)
        candidates, class_id = candidates[wanted], class_id[wanted]
    if not len(candidates):
        return Detections.empty()
    order = np.argsort(-best[candidates], kind="stable")[:MAX_CANDIDATES]
    candidates, class_id = candidates[order], class_id[order]
    confidence = best[candidates].astype(np.float32)
    centre, size = raw[:2, candidates].T, raw[2:4, candidates].T
    corner = centre - size / 2
    kept = _suppress(corner + class_id[:, None] * _CLASS_OFFSET_PX, size, confidence, options.iou)
    kept = kept[: options.max_detections]
    xyxy = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    return Detections(xyxy[kept], confidence[kept], class_id[kept])


def _suppress(
    corner: NDArray[np.float32], size: NDArray[np.float32], confidence: NDArray[np.float32], iou: float
) -> NDArray[np.intp]:
    xywh = np.concatenate([corner, size], axis=1, dtype=np.float64)
    kept = cv2.dnn.NMSBoxes(xywh, confidence, 0.0, iou)  # type: ignore[arg-type]  # its stubs know only lists
    return np.asarray(kept, np.intp).reshape(-1)

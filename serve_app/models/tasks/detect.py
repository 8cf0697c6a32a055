"""Turn the raw output of a YOLO head, in either of two layouts, into Detections, with NumPy and OpenCV only.

Only candidates above the confidence threshold are processed.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections
from serve_app.errors import ServeAppError
from serve_app.types import DetectOptions

MAX_CANDIDATES = 3000  # NMS gets only the most confident candidates, so that a noisy image takes a bounded time
_ROUNDING = 0.01  # a confidence may exceed 1 by this much in fp16 and int8
_CLASS_OFFSET_PX = 7680.0  # shifts boxes by class, so that NMS never compares two classes (as in Ultralytics)

_Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]  # xyxy, confidence, class id


def to_detections(raw: NDArray[np.float32], options: DetectOptions, *, end_to_end: bool) -> Detections:
    """Return the detections in pixels of the model input, the most confident first.

    ``raw`` has one of two layouts:

    - ``(4 + classes, anchors)``: centre x, centre y, width, height and one score per class.
    - ``(n, 6)``: rows of left, top, right, bottom, confidence and class id.

    ``end_to_end``: each object has one row, so NMS is skipped.

    Confidences slightly above 1 become 1. Raise ServeAppError when a confidence is higher than rounding can explain.
    The check at start uses a single image, so it can miss a model that returns such a confidence.
    """
    has_rows = raw.shape[1] == 6  # the other layout always has more than six anchors
    xyxy, confidence, class_id = _from_rows(raw, options) if has_rows else _from_anchors(raw, options)
    best = np.argsort(-confidence, kind="stable")[:MAX_CANDIDATES]  # built-in NMS may use another order
    xyxy, confidence, class_id = xyxy[best], confidence[best], class_id[best]
    if len(confidence) and confidence[0] > 1 + _ROUNDING:
        most = f"{confidence[0]:.3g}"
        raise ServeAppError(f"the model returns a confidence of {most}, but 1 is the maximum: export it again")
    confidence = np.minimum(confidence, 1)
    if not end_to_end:
        kept = _suppress(xyxy, confidence, class_id, options.iou)
        xyxy, confidence, class_id = xyxy[kept], confidence[kept], class_id[kept]
    n = options.max_detections
    return Detections(xyxy[:n], confidence[:n], class_id[:n])


def _from_rows(raw: NDArray[np.float32], options: DetectOptions) -> _Candidates:
    rows = raw[raw[:, 4] > options.confidence]
    class_id = rows[:, 5].astype(np.int32)
    wanted = _class_filter(class_id, options)
    return rows[wanted, :4], rows[wanted, 4], class_id[wanted]


def _from_anchors(raw: NDArray[np.float32], options: DetectOptions) -> _Candidates:
    scores = raw[4:]
    best = scores.max(axis=0)
    candidates = np.flatnonzero(best > options.confidence)
    class_id = scores[:, candidates].argmax(axis=0).astype(np.int32)
    wanted = _class_filter(class_id, options)
    candidates, class_id = candidates[wanted], class_id[wanted]
    centre, size = raw[:2, candidates].T, raw[2:4, candidates].T
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1), best[candidates], class_id


def _class_filter(class_id: NDArray[np.int32], options: DetectOptions) -> Any:
    """Return an index that selects the requested classes."""
    return slice(None) if options.class_ids is None else np.isin(class_id, options.class_ids)


def _suppress(
    xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int32], iou: float
) -> NDArray[np.intp]:
    if not len(xyxy):
        return np.empty(0, np.intp)
    class_offset = class_id[:, None] * _CLASS_OFFSET_PX
    xywh = np.concatenate([xyxy[:, :2] + class_offset, xyxy[:, 2:] - xyxy[:, :2]], axis=1, dtype=np.float64)
    kept = cv2.dnn.NMSBoxes(xywh, confidence, 0.0, iou)  # type: ignore[arg-type]  # its stubs know only lists
    return np.asarray(kept, np.intp).reshape(-1)

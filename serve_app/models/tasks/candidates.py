"""Find the candidates in a model's raw output: the boxes whose confidence is high enough, before suppression.

Only candidates above the confidence threshold are copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections
from serve_app.errors import ServeAppError
from serve_app.types import DetectOptions, EngineInfo

MAX_CANDIDATES = 3000  # NMS gets only the most confident candidates, so that a noisy image takes a bounded time
_ROUNDING = 0.01  # a confidence may exceed 1 by this much in fp16 and int8


@dataclass(frozen=True)
class Candidates:
    """Candidates for the objects in one image, the most confident first, as arrays of equal length."""

    boxes: NDArray[np.float32]  # (n, 4): left, top, right, bottom; or centre x, centre y, width, height if rotated
    confidence: NDArray[np.float32]  # (n,)
    class_id: NDArray[np.int32]  # (n,)
    extras: NDArray[np.float32]  # (n, extras): the further numbers of the task, such as keypoints

    def select(self, indices: NDArray[np.intp] | slice) -> Candidates:
        """Return the candidates with these indices."""
        return Candidates(self.boxes[indices], self.confidence[indices], self.class_id[indices], self.extras[indices])

    def to_detections(self) -> Detections:
        """Return the candidates as detections without the numbers of the task."""
        return Detections(self.boxes, self.confidence, self.class_id)


def find_candidates(
    raw: NDArray[np.float32], info: EngineInfo, options: DetectOptions, *, extras: int = 0, rotated: bool = False
) -> Candidates:
    """Return the candidates in one image, in pixels of the model input.

    ``raw`` has one of two layouts:

    - ``(4 + classes + extras, anchors)``: centre x, centre y, width, height, one score per class, and the extras.
    - ``(n, 6 + extras)``: rows of left, top, right, bottom, confidence, class id, and the extras. With ``rotated``,
      the first four numbers are centre x, centre y, width and height.

    The class of a candidate is the one with the highest score, and the threshold is that of this class. Confidences
    slightly above 1 become 1. Raise ServeAppError when a confidence is higher than rounding can explain, or when a
    candidate has a number that is not finite. The check at start uses a single image, so it can miss such a model.
    """
    has_rows = raw.shape[1] == 6 + extras  # the other layout always has more anchors
    found = _from_rows(raw, options) if has_rows else _from_anchors(raw, len(info.labels), options, rotated=rotated)
    best = np.argsort(-found.confidence, kind="stable")[:MAX_CANDIDATES]  # built-in NMS may use another order
    found = found.select(best)
    if len(best) and found.confidence[0] > 1 + _ROUNDING:
        most = f"{found.confidence[0]:.3g}"
        raise ServeAppError(f"the model returns a confidence of {most}, but 1 is the maximum: export it again")
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.extras).all()):
        raise ServeAppError("the model returns numbers that are not finite: export it again, or use precision fp32")
    return Candidates(found.boxes, np.minimum(found.confidence, 1), found.class_id, found.extras)


def _from_rows(raw: NDArray[np.float32], options: DetectOptions) -> Candidates:
    rows = raw[raw[:, 4] > _lowest_threshold(options)]
    class_id = rows[:, 5].astype(np.int32)
    wanted = _is_wanted(rows[:, 4], class_id, options)
    rows = rows[wanted]
    return Candidates(rows[:, :4], rows[:, 4], class_id[wanted], rows[:, 6:])


def _from_anchors(raw: NDArray[np.float32], classes: int, options: DetectOptions, *, rotated: bool) -> Candidates:
    scores = raw[4 : 4 + classes]
    best = scores.max(axis=0)
    anchors = np.flatnonzero(best > _lowest_threshold(options))
    class_id = scores[:, anchors].argmax(axis=0).astype(np.int32)
    wanted = _is_wanted(best[anchors], class_id, options)
    anchors, class_id = anchors[wanted], class_id[wanted]
    centre, size = raw[:2, anchors].T, raw[2:4, anchors].T
    sides = [centre, size] if rotated else [centre - size / 2, centre + size / 2]
    return Candidates(np.concatenate(sides, axis=1), best[anchors], class_id, raw[4 + classes :, anchors].T)


def _lowest_threshold(options: DetectOptions) -> float:
    return min([options.confidence, *(threshold for _, threshold in options.class_confidence)])


def _is_wanted(
    confidence: NDArray[np.float32], class_id: NDArray[np.int32], options: DetectOptions
) -> NDArray[np.bool_]:
    """Return which candidates have a requested class, and a confidence above the threshold of their class."""
    wanted = np.ones(len(class_id), bool) if options.class_ids is None else np.isin(class_id, options.class_ids)
    if options.class_confidence:
        wanted &= confidence > thresholds_of(class_id, options)
    return wanted


def thresholds_of(class_id: NDArray[np.int32], options: DetectOptions) -> NDArray[np.float32]:
    """Return the confidence threshold of each class in ``class_id``, as an array of the same shape."""
    thresholds = np.full(class_id.shape, options.confidence, np.float32)
    for named_id, own in options.class_confidence:
        thresholds[class_id == named_id] = own
    return thresholds

"""The position of an object, by which it is counted in zones and across lines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections
from serve_app.keypoints import ANKLES, COCO_COUNT, VISIBLE_ABOVE


def anchors_of(detections: Detections) -> NDArray[np.float64]:
    """Return the position of each object, as an array of the shape (n, 2): x and y in pixels of the image.

    It is the middle of the visible ankles of a person with COCO's keypoints. For all other objects, it is the middle of
    the lower edge of the box.
    """
    left, _, right, bottom = detections.xyxy.astype(np.float64).T
    anchors = np.stack([(left + right) / 2, bottom], 1)
    keypoints = detections.keypoints
    if keypoints is None or keypoints.shape[1] != COCO_COUNT:
        return anchors
    ankles = keypoints[:, list(ANKLES)].astype(np.float64)  # (n, 2, 3)
    visible: NDArray[np.bool_] = ankles[..., 2] > VISIBLE_ABOVE
    middle = (ankles[..., :2] * visible[..., None]).sum(1) / np.maximum(visible.sum(1), 1)[:, None]
    return np.where(visible.any(1, keepdims=True), middle, anchors)

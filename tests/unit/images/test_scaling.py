"""Tests of detections in scaled images."""

from __future__ import annotations

import numpy as np

from serve_app.images.scaling import scaled
from tests.support import tasks


def test_everything_is_scaled_but_angles_and_confidences() -> None:
    assert scaled(tasks.boxed(), 0.5, 2).xyxy.tolist() == [[10, 20, 40, 140], [50, 40, 70, 200]]
    masks = scaled(tasks.segmented(), 0.5, 2).masks
    assert masks is not None
    assert masks[1].xyxy == (50, 40, 70, 200)
    keypoints = scaled(tasks.posed(), 0.5, 0.5).keypoints
    assert keypoints is not None
    assert keypoints[1, 0].tolist() == [50, 10, 0.75]
    boxes = scaled(tasks.rotated(), 0.5, 0.5).rotated
    assert boxes is not None
    assert boxes[0].tolist() == [25, 20, 30, 15, np.float32(np.pi / 6)]
    assert scaled(tasks.classified(), 0.5, 0.5).classes is not None

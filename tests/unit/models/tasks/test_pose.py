from __future__ import annotations

import numpy as np
import pytest
import torch
from ultralytics.utils.nms import non_max_suppression

from serve_app.models.engines.device import to_rows
from serve_app.models.tasks import to_detections
from serve_app.types import DetectOptions
from tests.support.raw_outputs import CLASSES, crowded, info_of

OPTIONS = DetectOptions(0.3, 0.7, 300)


@pytest.mark.parametrize("numbers", [2, 3])
@pytest.mark.parametrize("layout", ["anchors", "rows"])
def test_each_object_has_its_own_keypoints(numbers: int, layout: str) -> None:
    extras = np.random.default_rng(0).uniform(0, 640, (17 * numbers, 900)).astype(np.float32)
    raw = crowded(0, extras=extras)
    (theirs,) = non_max_suppression(torch.from_numpy(raw)[None], 0.3, 0.7, max_det=300, nc=CLASSES)
    if layout == "rows":
        raw = to_rows(torch.from_numpy(raw)[None], CLASSES)[0].numpy()
    found = to_detections((raw,), info_of("pose", keypoints=17), OPTIONS)
    assert found.keypoints is not None
    assert found.keypoints.shape == (len(theirs), 17, 3)
    np.testing.assert_allclose(found.keypoints[..., :numbers], theirs[:, 6:].reshape(-1, 17, numbers), atol=1e-3)
    if numbers == 2:
        assert (found.keypoints[..., 2] == 1).all()


def test_an_image_without_objects_has_no_keypoints() -> None:
    raw = np.zeros((4 + CLASSES + 51, 100), np.float32)
    found = to_detections((raw,), info_of("pose", keypoints=17), OPTIONS)
    assert found.keypoints is not None
    assert found.keypoints.shape == (0, 17, 3)

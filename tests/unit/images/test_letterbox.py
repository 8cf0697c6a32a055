from __future__ import annotations

import numpy as np
import pytest
import torch
from ultralytics.data.augment import LetterBox
from ultralytics.utils.ops import scale_boxes

from serve_app.images.letterbox import letterbox
from serve_app.images.map_back import to_picture
from serve_app.types import Detections

SHAPES = [(640, 640), (480, 640), (1080, 810), (333, 517), (1, 1), (1, 4000), (4000, 1), (720, 1281), (37, 640)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_model_input_equals_that_of_ultralytics(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ours = np.full((640, 640, 3), 7, np.uint8)  # the slot still has an earlier image
    letterbox(pixels, ours)
    theirs = LetterBox((640, 640), auto=False)(image=pixels)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_boxes_are_mapped_back_as_by_ultralytics(shape: tuple[int, int]) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    fitted = letterbox(pixels, np.empty((640, 640, 3), np.uint8))
    corners = np.random.default_rng(1).uniform(-50, 690, (50, 2, 2)).astype(np.float32)
    xyxy = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    ours = to_picture(Detections(xyxy, np.ones(50, np.float32), np.zeros(50, np.int32)), fitted).xyxy
    theirs = scale_boxes((640, 640), torch.from_numpy(xyxy.copy()), shape).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=1e-5)

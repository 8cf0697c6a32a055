from __future__ import annotations

import numpy as np
import pytest
import torch
from ultralytics.data.augment import LetterBox
from ultralytics.utils.ops import scale_boxes

from serve_app.detections import Detections
from serve_app.images.letterbox import choose_shape, fit, letterbox
from serve_app.images.map_back import to_picture
from serve_app.types import InputShape

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


INPUTS = (
    InputShape(384, 640),
    InputShape(640, 384),
    InputShape(480, 640),
    InputShape(640, 480),
    InputShape.square(640),
)


@pytest.mark.parametrize(
    ("width_px", "height_px", "shape"),
    [
        (1920, 1080, InputShape(384, 640)),
        (1080, 1920, InputShape(640, 384)),
        (640, 480, InputShape(480, 640)),
        (3000, 4000, InputShape(640, 480)),
        (640, 481, InputShape.square(640)),
        (100, 100, InputShape.square(640)),
        (4000, 1, InputShape(384, 640)),
        (1, 4000, InputShape(640, 384)),
        (16, 9, InputShape(384, 640)),
    ],
)
def test_an_image_takes_the_smallest_shape_that_holds_it_at_full_scale(
    width_px: int, height_px: int, shape: InputShape
) -> None:
    assert choose_shape(width_px, height_px, INPUTS) == shape
    fitted, square = fit(width_px, height_px, shape), fit(width_px, height_px, INPUTS[-1])
    assert (fitted.inner_width_px, fitted.inner_height_px) == (square.inner_width_px, square.inner_height_px)

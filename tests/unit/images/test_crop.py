from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from ultralytics.data.augment import classify_transforms

from serve_app.images.fitting import place
from serve_app.images.prepare import prepare_new
from serve_app.types import InputShape

NOISE = np.random.default_rng(0).integers(0, 256, (800, 900, 3), np.uint8)


@pytest.mark.parametrize(
    ("width_px", "height_px"), [(640, 427), (427, 640), (224, 224), (800, 800), (100, 60), (1, 1), (1, 90), (899, 3)]
)
@pytest.mark.parametrize("shape", [InputShape(224, 224), InputShape(64, 64), InputShape(96, 160)], ids=str)
def test_the_pixels_are_those_of_ultralytics(width_px: int, height_px: int, shape: InputShape) -> None:
    pixels = np.ascontiguousarray(NOISE[:height_px, :width_px])
    expected = classify_transforms(tuple(shape))(Image.fromarray(pixels[..., ::-1].copy()))
    model_input = np.empty(shape.array, np.uint8)
    fitted = place(pixels, [shape], lambda _: model_input, "crop")
    np.testing.assert_array_equal(model_input[..., ::-1], expected.permute(1, 2, 0).mul(255).round().numpy())
    assert (fitted.width_px, fitted.height_px, fitted.input_shape) == (width_px, height_px, shape)
    assert (fitted.inner_width_px, fitted.inner_height_px) == (shape.width_px, shape.height_px)
    assert (fitted.pad_x_px, fitted.pad_y_px) == (0, 0)


def test_a_crop_is_not_made_from_a_reduced_image() -> None:
    """Reduced decoding would give other pixels."""
    data = cv2.imencode(".jpg", cv2.GaussianBlur(NOISE, (0, 0), 5))[1].tobytes()
    shapes = [InputShape.square(64)]
    exact, reduced = (prepare_new(data, 10**6, how, shapes, "crop")[2] for how in ("exact", "reduced"))
    np.testing.assert_array_equal(exact, reduced)

"""Tests of what is measured of an image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from serve_app.drift.features import look_of
from serve_app.images.letterbox import letterbox
from serve_app.types import InputShape, Pixels

SHAPE = InputShape.square(640)


def noise(seed: int = 0, size: tuple[int, int] = (480, 640)) -> Pixels:
    pixels: Pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return pixels


def test_the_padding_is_not_measured() -> None:
    model_input = np.empty(SHAPE.array, np.uint8)
    fitted = letterbox(np.full((100, 640, 3), 10, np.uint8), model_input)
    assert look_of(model_input, fitted) == (10, 0, 0)


def test_brightness_and_contrast_are_the_mean_and_the_deviation() -> None:
    model_input = np.empty(SHAPE.array, np.uint8)
    pixels = noise()
    look = look_of(model_input, letterbox(pixels, model_input))
    assert look.brightness == pytest.approx(pixels[..., 1].mean(), abs=2)
    assert look.contrast == pytest.approx(pixels[..., 1].std(), abs=2)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    pixels = cv2.GaussianBlur(noise(), (0, 0), 1.5)
    model_input = np.empty(SHAPE.array, np.uint8)
    look = look_of(model_input, letterbox(pixels, model_input))
    assert look.sharpness == pytest.approx(cv2.Laplacian(pixels[..., 1], cv2.CV_64F).var(), rel=0.1)


def test_a_blurred_image_is_less_sharp() -> None:
    model_input = np.empty(SHAPE.array, np.uint8)
    sharp = look_of(model_input, letterbox(noise(), model_input))
    blurred = look_of(model_input, letterbox(cv2.GaussianBlur(noise(), (0, 0), 3), model_input))
    assert blurred.sharpness < sharp.sharpness / 100


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_an_image_of_one_row_or_column_can_be_measured(size: tuple[int, int]) -> None:
    model_input = np.empty(SHAPE.array, np.uint8)
    look = look_of(model_input, letterbox(np.full((*size, 3), 77, np.uint8), model_input))
    assert look == (77, 0, 0)

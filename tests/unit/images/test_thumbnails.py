"""Tests of small versions of images."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.images.drawing import encode_jpeg
from serve_app.images.opencv import decode_with_opencv
from serve_app.images.thumbnails import thumbnail
from tests.support import squares


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1080, 1920), (540, 960)), ((1920, 1080), (960, 540)), ((2000, 2000), (960, 960)), ((5000, 2), (960, 1))],
)
def test_the_longer_side_is_limited_and_the_shape_stays(size: tuple[int, int], expected: tuple[int, int]) -> None:
    small = thumbnail(encode_jpeg(np.zeros((*size, 3), np.uint8)), 960)
    assert decode_with_opencv(small).shape[:2] == expected


def test_a_small_image_is_not_encoded_again() -> None:
    jpeg = encode_jpeg(squares.picture([]))
    assert thumbnail(jpeg, 960) is jpeg


def test_the_colours_stay() -> None:
    pixels = np.zeros((1000, 2000, 3), np.uint8)
    pixels[:, 1000:] = (0, 0, 255)
    small = decode_with_opencv(thumbnail(encode_jpeg(pixels), 500))
    assert np.abs(small[100, 100].astype(int)).max() < 8
    assert np.abs(small[100, 400].astype(int) - (0, 0, 255)).max() < 8

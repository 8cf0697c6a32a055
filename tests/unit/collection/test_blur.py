from __future__ import annotations

import numpy as np
import pytest

from serve_app.collection.blur import blur

NOISE = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)


def test_only_the_box_and_its_margin_change() -> None:
    before = NOISE.copy()
    blurred = blur(NOISE, np.array([[20, 20, 120, 80]], np.float32))
    assert np.array_equal(NOISE, before)
    changed = (blurred != NOISE).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (17, 82, 15, 124)
    assert changed[17:83, 15:125].mean() > 0.99


@pytest.mark.parametrize("side_px", [4, 8, 40, 90])
def test_the_pixels_of_a_box_are_lost(side_px: int) -> None:
    blurred = blur(NOISE, np.array([[0, 0, side_px, side_px]], np.float32))[:side_px, :side_px].astype(float)
    # The mean of many random values is always near 128, and neighbours in a blurred image are alike.
    assert np.abs(np.diff(blurred, axis=1)).mean() < np.abs(np.diff(NOISE[:side_px, :side_px].astype(float))).mean() / 3
    assert len(np.unique(blurred[0, :, 0])) <= 8 * 12


@pytest.mark.parametrize("box", [(-10, -10, 30, 30), (190, 90, 230, 130), (50, 50, 50, 50), (300, 300, 400, 400)])
def test_boxes_at_or_beyond_the_edge_do_no_harm(box: tuple[int, ...]) -> None:
    assert blur(NOISE, np.array([box], np.float32)).shape == NOISE.shape


def test_an_image_without_boxes_stays_as_it_is() -> None:
    assert np.array_equal(blur(NOISE, np.empty((0, 4), np.float32)), NOISE)

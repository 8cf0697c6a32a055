"""Tests of masks as run-length encodings and as outlines, which are compared with pycocotools."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco

from serve_app.detections import Mask, Rle
from serve_app.images.outlines import rings_of, with_outlines
from serve_app.outlines import mask_of_rings, mask_of_rle, rle_of
from tests.support import tasks

RNG = np.random.default_rng(25)


def random_mask(number: int) -> tuple[Mask, int, int]:
    """Return a noisy or a smooth mask that may extend beyond its image, and the image's width and height."""
    rows, columns = RNG.integers(1, 40, 2)
    values = RNG.random((rows, columns)).astype(np.float32)
    values = cv2.GaussianBlur(values, (0, 0), 2).reshape(rows, columns) if number % 2 else values
    width, height = (int(side) for side in RNG.integers(1, 120, 2))
    x, y = np.sort(RNG.uniform(-3, width + 3, 2)), np.sort(RNG.uniform(-3, height + 3, 2))
    rectangle = (0.0, 0.0, float(width), float(height)) if number % 5 == 0 else (x[0], y[0], x[1], y[1])
    return Mask(values < RNG.choice([0, 0.3, 0.5, 0.7, 1.1]), rectangle), width, height


def whole(mask: Mask, width: int, height: int) -> NDArray[np.bool_]:
    """Return a mask as an array of its image, pixel by pixel."""
    rows, columns = mask.bits.shape
    left, top, right, bottom = mask.xyxy
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    column = np.clip(((x - left) * columns / (right - left)).astype(int), 0, columns - 1)
    row = np.clip(((y - top) * rows / (bottom - top)).astype(int), 0, rows - 1)
    inside = np.outer((top <= y) & (y < bottom), (left <= x) & (x < right))
    return mask.bits[np.ix_(row, column)] & inside


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("number", range(60))
def test_an_rle_is_that_of_pycocotools(number: int) -> None:
    mask, width, height = random_mask(number)
    pixels = whole(mask, width, height)
    rle = rle_of(mask, width, height)
    expected = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    assert (rle.height_px, rle.width_px) == tuple(expected["size"])
    assert rle.counts == expected["counts"].decode()
    assert (whole(mask_of_rle(rle), width, height) == pixels).all()


def test_the_runs_of_a_large_image_are_read_and_written() -> None:
    pixels = np.zeros((5000, 8000), np.uint8)
    pixels[4000, 7000] = 1
    rle = rle_of(Mask(np.ones((1, 1), np.bool_), (7000, 4000, 7001, 4001)), 8000, 5000)
    assert rle.counts == coco.encode(np.asfortranarray(pixels))["counts"].decode()
    assert mask_of_rle(rle).xyxy == (7000, 4000, 7001, 4001)


@pytest.mark.parametrize("counts", ["", "~", "P", "5", "éé", "oooooooooo1"], ids=repr)
def test_an_invalid_rle_is_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="RLE"):
        mask_of_rle(Rle(7, 9, counts))


@pytest.mark.parametrize("radius", [3, 8, 30])
@pytest.mark.parametrize("scale", [1, 6])
def test_an_outline_encloses_its_mask(radius: int, scale: int) -> None:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    side = (2 * radius + 1) * scale
    mask = Mask(x * x + y * y <= radius * radius, (10, 20, 10 + side, 20 + side))
    pixels = whole(mask, 20 + side, 30 + side)
    enclosed = whole(mask_of_rings(rings_of(mask)), 20 + side, 30 + side)
    assert iou(pixels, enclosed) > {3: 0.9, 8: 0.93, 30: 0.98}[radius]


def test_outlines_lie_on_the_outer_edges_of_pixels() -> None:
    one_pixel = Mask(np.ones((1, 1), np.bool_), (3, 4, 10, 20))
    assert sorted(map(tuple, rings_of(one_pixel)[0])) == [(3, 4), (3, 20), (10, 4), (10, 20)]


@pytest.mark.parametrize("width_px", [1, 2, 5])
def test_the_outline_of_a_slanted_pole_keeps_its_pixels(width_px: int) -> None:
    bits = cv2.line(np.zeros((90, 70), np.uint8), (4, 3), (65, 85), 1, width_px).astype(np.bool_)
    pole = Mask(bits, (0, 0, 70, 90))
    assert iou(whole(pole, 70, 90), whole(mask_of_rings(rings_of(pole)), 70, 90)) > 0.85


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (64, 40)])
def test_a_pickled_mask_takes_one_bit_for_each_pixel(rows: int, columns: int) -> None:
    mask = Mask(RNG.random((rows, columns)) > 0.5, (1, 2, 3.5, 4))
    pickled = pickle.dumps(mask)
    assert len(pickled) < rows * columns / 8 + 200
    copy = pickle.loads(pickled)
    assert (copy.bits.dtype, copy.bits.tolist(), copy.xyxy) == (np.bool_, mask.bits.tolist(), mask.xyxy)


def test_each_part_has_an_outline_and_holes_have_none() -> None:
    ring = np.ones((9, 9), np.bool_)
    ring[3:6, 3:6] = False
    parts = np.hstack([ring, np.zeros((9, 1), np.bool_), np.ones((9, 2), np.bool_)])
    rings = rings_of(Mask(parts, (0, 0, 12, 9)))
    assert sorted(max(x for x, _ in ring) for ring in rings) == [9, 12]
    assert mask_of_rings(rings).bits.sum() == 9 * 9 + 9 * 2


def test_an_empty_mask_has_no_outline_and_an_rle_without_pixels() -> None:
    empty = Mask(np.zeros((4, 4), np.bool_), (0, 0, 4, 4))
    assert rings_of(empty) == []
    assert coco.decode({"size": [5, 6], "counts": rle_of(empty, 6, 5).counts}).sum() == 0
    assert not mask_of_rle(rle_of(empty, 6, 5)).bits.any()
    assert not mask_of_rings([]).bits.any()


def test_detections_get_the_wanted_description_of_their_masks() -> None:
    found = tasks.segmented()
    polygons = with_outlines(found, tasks.WIDTH_PX, tasks.HEIGHT_PX, "polygon").outlines
    assert polygons is not None
    assert sorted(map(tuple, polygons[1][0])) == [(100, 20), (100, 100), (120, 20), (120, 100)]  # type: ignore[index]
    runs = with_outlines(found, tasks.WIDTH_PX, tasks.HEIGHT_PX, "rle").outlines
    assert runs is not None
    assert [isinstance(one, Rle) for one in runs] == [True, True]
    boxes = tasks.boxed()
    assert with_outlines(boxes, 200, 100, "rle") is boxes


def test_the_first_outline_is_the_largest_although_another_has_more_points() -> None:
    bits = np.zeros((400, 400), np.uint8)
    bits[10:310, 10:310] = 1
    cv2.circle(bits, (370, 370), 9, 1, -1)
    square, circle = rings_of(Mask(bits.astype(bool), (0.0, 0.0, 400.0, 400.0)))
    assert len(square) < len(circle)
    assert max(x for x, _ in square) < 320

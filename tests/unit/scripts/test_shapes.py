"""Tests of the scenes of coloured shapes, whose truth is exact, and of the comparison of answers with this truth."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from scripts.shapes.scenes import KINDS, LABELS, POINTED, Shape, scene
from serve_app.detections import Mask
from tests.support import shapes

SIZE_PX = 200, 160  # width, height


def shape(kind: str, angle: float = 0.0) -> Shape:
    """Return a shape with a length of 80 px and a width of 40 px."""
    return Shape(kind, "red", (100.25, 80.75), 80, 40, angle)


def area_px(kind: str) -> float:
    """Return the area of ``shape(kind)``, from the formula for its area."""
    whole = 80 * 40
    shares = {"arrow": 0.25 + 0.5 * 0.4, "bar": 1.0, "ring": np.pi / 4 * (1 - 0.5**2), "triangle": 0.5}
    return float(shares[kind]) * whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("angle", [0, 0.4, 2.0, 4.5])
def test_the_mask_has_the_area_and_the_box_of_the_shape(kind: str, angle: float) -> None:
    mask = shape(kind, angle).mask(*SIZE_PX)
    assert mask.sum() == pytest.approx(area_px(kind), rel=0.02)
    rows, columns = np.nonzero(mask)
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    # The mask lacks pixels of which a sharp corner covers less than half.
    assert np.abs(np.array(found) - shape(kind, angle).xyxy).max() <= 4


def test_a_ring_has_a_hole() -> None:
    mask = shape("ring", 0.7).mask(*SIZE_PX)
    assert not mask[80, 100]
    assert cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[1][0].shape == (2, 4)


def test_an_arrow_points_to_the_right_and_then_down() -> None:
    right, down = shape("arrow"), shape("arrow", np.pi / 2)
    tip, barb, tail, other = right.keypoints.tolist()
    assert (tip, tail) == ([140.25, 80.75], [60.25, 80.75])
    assert (barb, other) == ([100.25, 100.75], [100.25, 60.75])  # the right barb is below, because y points down
    assert down.keypoints[0].tolist() == pytest.approx([100.25, 120.75])
    assert down.rotated == pytest.approx((100.25, 80.75, 80, 40, np.pi / 2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_rotated_rectangle_contains_the_shape_and_is_no_larger(kind: str) -> None:
    assert np.ptp(shape(kind).outline, axis=0).tolist() == pytest.approx([80, 40])  # in the direction of the x axis
    tilted = shape(kind, 0.6)
    hull = tilted.corners.astype(np.float32)
    assert min(cv2.pointPolygonTest(hull, point.tolist(), True) for point in tilted.outline) > -1e-3
    assert shapes.rotated_iou(tilted.rotated, (*tilted.centre, 80, 40, 0.6 + np.pi)) == pytest.approx(1, abs=1e-3)


def test_a_scene_depends_only_on_the_seed() -> None:
    first, again, other = (scene(np.random.default_rng(seed), *SIZE_PX) for seed in (1, 1, 2))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.shapes == again.shapes
    assert first.shapes != other.shapes


def test_shapes_do_not_overlap_and_lie_in_the_image() -> None:
    for image in shapes.scenes(20):
        height, width = image.pixels.shape[:2]
        covered = np.sum([one.mask(width, height) for one in image.shapes], axis=0)
        assert covered.max() == 1
        for one in image.shapes:
            left, top, right, bottom = one.xyxy
            assert min(left, top) >= 0
            assert right <= width
            assert bottom <= height


def test_every_task_has_every_class_in_the_scenes_of_the_tests() -> None:
    seen = {one.kind for image in shapes.scenes(20) for one in image.shapes}
    assert seen == set(KINDS) > set(POINTED)
    assert {image.label for image in shapes.portraits(80)} == set(LABELS["classify"])
    assert sorted(LABELS["classify"]) == list(LABELS["classify"])


@pytest.mark.parametrize("task", shapes.TASKS)
def test_the_truth_is_a_right_answer(task: str) -> None:
    for image in shapes.portraits(5) if task == "classify" else shapes.scenes(5):
        assert shapes.disagreements(image, shapes.truth(image, task), task) == []


@pytest.mark.parametrize("task", ["detect", "obb", "pose", "segment"])
def test_a_lost_a_spurious_and_a_mislabelled_shape_are_described(task: str) -> None:
    image = shapes.scenes(1)[0]
    answer = shapes.truth(image, task)
    assert len(answer) >= 2
    lost = answer.select(np.arange(1, len(answer)))
    (sentence,) = shapes.disagreements(image, lost, task)
    assert "was not found" in sentence
    twice = answer.select(np.array([0, *range(len(answer))]))
    (sentence,) = shapes.disagreements(image, twice, task)
    assert "there is no" in sentence
    wrong = replace(answer, class_id=np.array([1 - answer.class_id[0] % 2, *answer.class_id[1:]], np.int32))
    assert len(shapes.disagreements(image, wrong, task)) == 2


def test_what_a_task_adds_to_a_box_is_compared() -> None:
    image = shapes.scenes(1)[0]
    masks, points, rotated = (shapes.truth(image, task) for task in ("segment", "pose", "obb"))
    assert masks.masks is not None
    assert points.keypoints is not None
    assert rotated.rotated is not None
    wrong = {
        "segment": replace(masks, masks=tuple(replace(one, bits=~one.bits) for one in masks.masks)),
        "pose": replace(points, keypoints=points.keypoints[:, [0, 3, 2, 1]]),  # a mirrored shape
        "obb": replace(rotated, rotated=rotated.rotated + np.array((30, 0, 0, 0, 0), np.float32)),
    }
    expected = {"segment": "mask", "pose": "keypoint", "obb": "rotated rectangle"}
    for task, answer in wrong.items():
        problems = shapes.disagreements(image, answer, task)
        assert len(problems) == len(answer) > 0
        assert all(expected[task] in problem for problem in problems)


def test_a_mask_is_painted_where_its_rectangle_lies() -> None:
    bits = np.array([[True, False], [True, True]])
    pixels = shapes.painted(Mask(bits, (1, 2, 5, 4)), 6, 5)
    assert pixels.astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_the_intersection_of_rotated_rectangles_is_exact() -> None:
    assert shapes.rotated_iou((50, 50, 40, 20, 0.3), (50, 50, 20, 40, 0.3 + np.pi / 2)) == pytest.approx(1, abs=1e-3)
    assert shapes.rotated_iou((50, 50, 40, 20, 0), (60, 50, 40, 20, 0)) == pytest.approx(30 / 50)
    assert shapes.rotated_iou((0, 0, 1, 1, 0), (0, 0, 1, 1, np.pi / 4)) == pytest.approx(2**-0.5, abs=1e-3)
    assert shapes.rotated_iou((0, 0, 9, 9, 0), (50, 50, 9, 9, 0)) == 0

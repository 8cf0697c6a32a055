"""Tests of where labels are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.detections import Detections
from serve_app.images.drawing import draw
from serve_app.images.labels import Rectangle, place_labels
from serve_app.types import Pixels
from tests.support import tasks


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((20, 30, 80, 90), (20, 20, 60, 30)),
        ((20, 5, 80, 90), (20, 5, 60, 15)),
        ((90, 30, 99, 90), (60, 20, 100, 30)),
        ((-5, -5, 110, 110), (0, 0, 40, 10)),
    ],
    ids=["above the box", "inside if there is no room above", "moved to the left at the right edge", "in the corner"],
)
def test_a_single_label_is_inside_the_image(box: Rectangle, place: Rectangle) -> None:
    assert place_labels([box], [(40, 10)], 100, 100) == [place]


def test_labels_of_boxes_with_the_same_corner_cover_no_other_label() -> None:
    boxes = [(20, 30, 80, 60), (20, 30, 90, 60), (21, 31, 80, 61)]
    above, inside, below = place_labels(boxes, [(40, 10)] * 3, 100, 100)
    assert (above, inside, below) == ((20, 20, 60, 30), (20, 30, 60, 40), (21, 61, 61, 71))


def test_a_label_that_has_no_free_place_is_above_its_box() -> None:
    places = place_labels([(20, 30, 80, 60)] * 4, [(40, 10)] * 4, 100, 100)
    assert places[3] == places[0] == (20, 20, 60, 30)


def test_the_labels_of_two_classes_in_one_place_can_both_be_read() -> None:
    boxes = np.array([[40, 60, 260, 200], [42, 61, 250, 190]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.array([0, 5], np.int32), ("van", "truck"))
    pixels = draw(np.full((300, 300, 3), 127, np.uint8), found)
    for box, class_id, label in zip(boxes, (0, 5), ("van", "truck"), strict=True):
        alone = Detections(box[None], np.array([0.9], np.float32), np.array([class_id], np.int32), (label,))
        drawn = draw(np.full((300, 300, 3), 127, np.uint8), alone)
        assert _label_area(pixels, class_id) >= 0.95 * _label_area(drawn, class_id)


def _label_area(pixels: Pixels, class_id: int) -> int:
    colour = {0: (0, 159, 230), 5: (0, 94, 213)}[class_id]
    return int((pixels == colour).all(axis=2).sum())


def drawn(found: Detections) -> Pixels:
    """Return where an image changes when detections are drawn on it, as an array of bools."""
    blank = np.full((tasks.HEIGHT_PX, tasks.WIDTH_PX, 3), 127, np.uint8)
    changed: Pixels = (draw(blank.copy(), found) != blank).any(axis=2)
    return changed


def test_a_mask_is_translucent_inside_and_its_hole_is_not_drawn() -> None:
    blank = np.full((tasks.HEIGHT_PX, tasks.WIDTH_PX, 3), 127, np.uint8)
    pixels = draw(blank, tasks.segmented())
    colour = np.array((0, 159, 230))
    assert np.abs(pixels[64, 74] - (0.55 * 127 + 0.45 * colour)).max() <= 1
    assert (pixels[40, 50] == 127).all()
    assert not drawn(tasks.segmented())[60, 132]  # the right half of the dog's box


def test_limbs_are_drawn_between_visible_keypoints_of_coco_alone() -> None:
    people = tasks.posed()
    assert people.keypoints is not None
    knee, hip = people.keypoints[0, 13], people.keypoints[0, 11]
    knee[:2], hip[:2] = (60, 60), (40, 20)  # inside the cat's box
    assert drawn(people)[40, 50]
    knee[2] = 0.5
    assert not drawn(people)[40, 50]
    assert not drawn(people)[60, 60]
    others = tasks.posed(16)
    assert others.keypoints is not None
    others.keypoints[0, 13, :2], others.keypoints[0, 11, :2] = (60, 60), (40, 20)
    assert drawn(others)[60, 60]
    assert not drawn(others)[40, 50]


def test_a_rotated_box_is_drawn_in_place_of_the_upright_box() -> None:
    changed = drawn(tasks.rotated())
    found = tasks.rotated().corners
    assert found is not None
    for x, y in found[0]:
        assert changed[round(float(y)) - 1 : round(float(y)) + 2, round(float(x)) - 1 : round(float(x)) + 2].any()
    assert not changed[69, 75:80].any()  # the lower right corner of the upright box


def test_the_classes_of_an_image_are_listed_in_its_corner() -> None:
    changed = drawn(tasks.classified())
    assert changed[2, 2]
    assert not changed[tasks.HEIGHT_PX // 2 :].any()


def test_shapes_beyond_the_edges_of_the_image_are_cut_off() -> None:
    for found in (tasks.segmented(), tasks.posed(), tasks.rotated()):
        draw(np.zeros((40, 50, 3), np.uint8), found)
        draw(np.zeros((1, 1, 3), np.uint8), found)

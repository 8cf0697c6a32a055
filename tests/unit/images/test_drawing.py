"""Tests of where labels are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.detections import Detections
from serve_app.images.drawing import Rectangle, draw, place_labels
from serve_app.types import Pixels


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

"""Tests of the positions by which objects are counted."""

from __future__ import annotations

import numpy as np

from serve_app.streams.scene.anchors import anchors_of
from tests.support import tasks


def test_an_object_is_where_its_box_ends_below() -> None:
    for found in (tasks.boxed(), tasks.segmented(), tasks.rotated(), tasks.posed(5)):
        assert anchors_of(found).tolist() == [[50, 70], [120, 100]]
    assert anchors_of(tasks.classified()).shape == (0, 2)


def test_a_person_is_where_the_visible_ankles_are() -> None:
    people = tasks.posed()
    assert people.keypoints is not None
    left, right = people.keypoints[:, 15], people.keypoints[:, 16]
    left[:], right[:] = (30, 60, 0.9), (40, 66, 0.8)
    assert anchors_of(people).tolist() == [[35, 63], [35, 63]]
    right[:, 2] = 0.5
    assert anchors_of(people).tolist() == [[30, 60], [30, 60]]
    left[1, 2] = np.nan
    assert anchors_of(people).tolist() == [[30, 60], [120, 100]]

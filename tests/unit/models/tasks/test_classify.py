from __future__ import annotations

import numpy as np

from serve_app.models.tasks import to_detections
from serve_app.models.tasks.classify import MAX_CLASSES
from serve_app.types import DetectOptions
from tests.support.raw_outputs import info_of

INFO = info_of("classify")
PROBABILITIES = np.array([0.05, 0.4, 0.0, 0.3, 0.2, 0.05, 0.0], np.float32)


def ranked(options: DetectOptions) -> list[int]:
    found = to_detections((PROBABILITIES,), INFO, options)
    assert len(found) == 0
    assert found.classes is not None
    np.testing.assert_array_equal(found.classes.confidence, PROBABILITIES[found.classes.class_id])
    return list(map(int, found.classes.class_id))


def test_the_most_probable_classes_are_returned_the_most_probable_first() -> None:
    assert ranked(DetectOptions(0.0, 0.7, MAX_CLASSES)) == [1, 3, 4, 0, 5]
    assert ranked(DetectOptions(0.0, 0.7, 300)) == [1, 3, 4, 0, 5, 2, 6]
    assert ranked(DetectOptions(0.0, 0.7, 1)) == [1]


def test_a_threshold_leaves_out_improbable_classes() -> None:
    assert ranked(DetectOptions(0.25, 0.7, 5)) == [1, 3]
    assert ranked(DetectOptions(0.9, 0.7, 5)) == []


def test_a_class_may_have_its_own_threshold() -> None:
    assert ranked(DetectOptions(0.25, 0.7, 5, class_confidence=((0, 0.01), (1, 0.5)))) == [3, 0]


def test_only_the_requested_classes_are_ranked() -> None:
    assert ranked(DetectOptions(0.0, 0.7, 5, class_ids=(3, 5))) == [3, 5]

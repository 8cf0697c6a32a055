from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.collection.selection import Reason, Selection, are_all_known, classes_to_blur
from serve_app.types import DetectOptions
from tests.support.collected import LABELS, MODEL, answer, settings


@pytest.fixture
def selection(tmp_path: Path) -> Selection:
    """Return a selection that has seen every class."""
    made = Selection(settings(tmp_path, uncertain_from=0.25, uncertain_below=0.6))
    made.saw(range(3), "best")
    return made


@pytest.mark.parametrize(
    ("confidences", "reason"),
    [
        ((), None),
        ((0.9,), None),
        ((0.6,), None),
        ((0.59,), "uncertain"),
        ((0.9, 0.3), "uncertain"),
        ((0.25,), "uncertain"),
        ((0.9, 0.1), None),
    ],
    ids=str,
)
def test_an_image_is_uncertain_if_a_confidence_is_in_the_range(
    confidences: tuple[float, ...], reason: Reason | None, selection: Selection
) -> None:
    found = answer(*(("dog", confidence) for confidence in confidences))
    assert selection.reason(found.detections, "best", "lot") == reason


def test_a_class_is_new_until_it_was_seen_with_this_dataset(selection: Selection) -> None:
    certain = answer(("person", 0.9), ("dog", 0.9)).detections
    assert selection.new_classes(certain, "other") == {0, 1}
    selection.saw({0, 1}, "other")
    assert selection.reason(certain, "other", "lot") is None
    selection.forget({1}, "other")
    assert selection.reason(certain, "other", "lot") == "new_class"
    assert selection.reason(certain, "best", "lot") is None


def test_images_of_a_drifting_source_are_worth_a_look(selection: Selection) -> None:
    selection.drifting = frozenset({"lot"})
    certain = answer(("dog", 0.9)).detections
    assert [selection.reason(certain, "best", source) for source in ("lot", "gate")] == ["drifted", None]


def test_labels_to_blur_that_the_model_does_not_know_are_noticed() -> None:
    assert classes_to_blur(LABELS, frozenset()) == frozenset()
    assert classes_to_blur(LABELS, frozenset({"dog", "cat"})) == frozenset({1, 2})
    assert classes_to_blur(LABELS, frozenset({"dog", "fase"})) is None


def test_a_label_that_two_classes_share_stands_for_both() -> None:
    assert classes_to_blur(("dog", "cat", "dog"), frozenset({"dog"})) == frozenset({0, 2})


@pytest.mark.parametrize(
    ("options", "are_known"),
    [
        (MODEL.defaults, True),
        (replace(MODEL.defaults, confidence=0.1, iou=0.9), True),
        (replace(MODEL.defaults, class_ids=(0, 1)), True),
        (replace(MODEL.defaults, class_ids=(1, 2)), False),
        (replace(MODEL.defaults, confidence=0.5), False),
        (replace(MODEL.defaults, iou=0.1), False),
        (replace(MODEL.defaults, max_detections=1), False),
    ],
    ids=str,
)
def test_an_image_can_be_blurred_only_if_its_request_asked_for_all_objects(
    options: DetectOptions, are_known: bool
) -> None:
    found = answer(("person", 0.9))
    assert are_all_known(frozenset({0}), found, MODEL, options) == are_known
    assert are_all_known(frozenset(), found, MODEL, options)


def test_the_threshold_of_the_class_to_blur_counts() -> None:
    found, people = answer(("person", 0.9)), frozenset({0})
    usual = replace(MODEL.defaults, class_confidence=((0, 0.6),))
    model = replace(MODEL, defaults=usual)
    assert are_all_known(people, found, model, usual)
    assert are_all_known(people, found, model, replace(usual, confidence=0.9))
    assert not are_all_known(people, found, model, replace(usual, class_confidence=((0, 0.7),)))
    assert not are_all_known(people, found, model, replace(usual, class_confidence=(), confidence=0.65))


def test_a_person_may_be_suppressed_by_an_object_of_another_class() -> None:
    found, people, agnostic = answer(("person", 0.9)), frozenset({0}), replace(MODEL.defaults, agnostic_nms=True)
    assert not are_all_known(people, found, MODEL, agnostic)
    usual = replace(MODEL, defaults=agnostic)
    assert are_all_known(people, found, usual, agnostic)
    assert are_all_known(people, found, usual, replace(agnostic, class_confidence=((1, 0.9),)))
    assert not are_all_known(people, found, usual, replace(agnostic, class_confidence=((1, 0.1),)))

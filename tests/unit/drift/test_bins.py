"""Tests of histograms."""

from __future__ import annotations

from typing import get_args

import numpy as np

from serve_app.detections import Detections
from serve_app.drift.bins import BINS, BY_NAME, FEATURES, SLICES, bin_name, histogram_of, images_in
from serve_app.drift.features import Look
from serve_app.schemas.drift import FeatureName
from tests.support import tasks
from tests.support.drift import answer

LOOK = Look(120, 50, 200)


def test_the_features_are_those_of_the_schema() -> None:
    assert tuple(feature.name for feature in FEATURES) == get_args(FeatureName)


def test_an_image_counts_once_in_each_feature_of_images_and_each_detection_once_in_the_others() -> None:
    counts = histogram_of(LOOK, answer(0, 0, 5))
    assert images_in(counts) == 1
    assert {feature.name: counts[SLICES[feature.name]].sum() for feature in FEATURES} == {
        feature.name: 1 if feature.counts_images else 3 for feature in FEATURES
    }
    assert counts[SLICES["classes"]].nonzero()[0].tolist() == [0, 5]


def test_a_value_on_an_edge_belongs_to_the_bin_above() -> None:
    for brightness, number in ((0, 0), (15.9, 0), (16, 1), (239.9, 14), (240, 15), (255, 15)):
        counts = histogram_of(Look(brightness, 0, 0), answer())
        assert counts[SLICES["brightness"]].nonzero()[0].tolist() == [number]


def test_a_box_in_the_middle_is_in_a_middle_cell() -> None:
    counts = histogram_of(LOOK, answer(0))
    assert counts[SLICES["position"]].nonzero()[0].tolist() == [10]


def test_boxes_at_the_edge_empty_boxes_and_high_class_ids_have_bins() -> None:
    boxes = np.array([[640, 480, 640, 480], [0, 0, 0, 0], [0, 0, 640, 480]], np.float32)
    found = Detections(boxes, np.array([1, 0, 0.5], np.float32), np.array([0, 95, 1202], np.int32))
    counts = histogram_of(Look(float("nan"), 0, 0), answer().__class__(**{**vars(answer()), "detections": found}))
    assert counts.shape == (BINS,)
    assert counts[SLICES["position"]].sum() == counts[SLICES["area"]].sum() == counts[SLICES["aspect"]].sum() == 3
    assert counts[SLICES["classes"]].nonzero()[0].tolist() == [0, 1202 % 96, 95]


def test_bins_have_names() -> None:
    assert bin_name(BY_NAME["brightness"], 0, {}) == "under 16"
    assert bin_name(BY_NAME["brightness"], 1, {}) == "16–32"
    assert bin_name(BY_NAME["brightness"], 15, {}) == "240 and more"
    assert bin_name(BY_NAME["classes"], 2, {2: "car", 98: "boat", 3: "bus"}) == "car / boat"
    assert bin_name(BY_NAME["classes"], 7, {}) == "class 7"
    assert bin_name(BY_NAME["position"], 6, {}) == "row 2, column 3"


def test_an_image_that_is_classified_counts_its_most_probable_class() -> None:
    counts = histogram_of(LOOK, tasks.answer(tasks.classified()))
    assert images_in(counts) == 1
    assert {feature.name: counts[SLICES[feature.name]].sum() for feature in FEATURES} == {
        feature.name: 1 if feature.counts_images or feature.name in {"classes", "confidence"} else 0
        for feature in FEATURES
    }
    assert counts[SLICES["classes"]].nonzero()[0].tolist() == [1]
    assert counts[SLICES["confidence"]].nonzero()[0].tolist() == [16]

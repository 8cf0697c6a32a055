from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ultralytics.utils.nms import non_max_suppression

from serve_app.errors import ServeAppError
from serve_app.models.engines.device import to_rows
from serve_app.models.tasks import to_detections
from serve_app.models.tasks.candidates import MAX_CANDIDATES
from serve_app.types import DetectOptions, EngineInfo, InputShape

LABELS = tuple("abcdefg")
RAW = EngineInfo("raw", "v1", "none", LABELS, InputShape.square(640), end_to_end=False)
END_TO_END = replace(RAW, end_to_end=True)


def crowded(seed: int, classes: int = 7, anchors: int = 900) -> np.ndarray:
    """Return raw output, ``(4 + classes, anchors)``, with many boxes that overlap."""
    rng = np.random.default_rng(seed)
    centre = rng.choice(np.linspace(100, 500, 6), (2, anchors)) + rng.normal(0, 6, (2, anchors))
    size = rng.uniform(40, 90, (2, anchors))
    scores = rng.beta(0.5, 3, (classes, anchors))
    return np.concatenate([centre, size, scores]).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "options",
    [
        DetectOptions(0.3, 0.7, 300),
        DetectOptions(0.05, 0.45, 300),
        DetectOptions(0.3, 0.7, 5),
        DetectOptions(0.3, 0.7, 300, class_ids=(1, 4)),
        DetectOptions(0.3, 0.0, 300),
        DetectOptions(0.3, 1.0, 300),
        DetectOptions(0.999, 0.7, 300),
    ],
    ids=str,
)
def test_detections_of_the_raw_head_equal_those_of_ultralytics(seed: int, options: DetectOptions) -> None:
    raw = crowded(seed)
    ours = to_detections((raw,), RAW, options)
    theirs = non_max_suppression(
        torch.from_numpy(raw)[None],
        options.confidence,
        options.iou,
        classes=None if options.class_ids is None else list(options.class_ids),
        max_det=options.max_detections,
    )[0].numpy()
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours.xyxy, theirs[:, :4], atol=1e-3)
    np.testing.assert_allclose(ours.confidence, theirs[:, 4])
    assert ours.class_id.tolist() == theirs[:, 5].tolist()


@pytest.mark.parametrize("class_ids", [None, (2, 5)])
@pytest.mark.parametrize("confidence", [0.01, 0.2])
def test_rows_made_on_the_device_give_the_same_detections(confidence: float, class_ids: tuple[int, ...] | None) -> None:
    options = DetectOptions(confidence, 0.7, 300, class_ids)
    raw = torch.stack([torch.from_numpy(crowded(seed, anchors=5000)) for seed in range(3)])
    for one, rows in zip(raw.numpy(), to_rows(raw, 7).numpy(), strict=True):
        expected = to_detections((one,), RAW, options)
        found = to_detections((rows,), RAW, options)
        assert rows.shape == (5000, 6)
        assert len(found) == len(expected) > 50
        np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1e-3)
        assert found.class_id.tolist() == expected.class_id.tolist()
    assert to_rows(raw.half(), 7).dtype == torch.float32


def test_rows_of_the_end_to_end_head_are_not_suppressed() -> None:
    raw = np.array(
        [[10, 10, 50, 50, 0.9, 2], [11, 11, 51, 51, 0.8, 2], [5, 5, 9, 9, 0.6, 0], [0, 0, 1, 1, 0.1, 1]], np.float32
    )
    found = to_detections((raw,), END_TO_END, DetectOptions(0.5, 0.1, 300))
    assert found.class_id.tolist() == [2, 2, 0]  # overlapping boxes are kept
    assert to_detections((raw,), END_TO_END, DetectOptions(0.5, 0.1, 1)).confidence.tolist() == [np.float32(0.9)]
    assert to_detections((raw,), END_TO_END, DetectOptions(0.05, 0.1, 9, (0, 1))).class_id.tolist() == [0, 1]


def test_only_the_best_candidates_of_a_noisy_picture_are_processed() -> None:
    raw = crowded(0, anchors=3 * MAX_CANDIDATES)
    raw[:2] = np.random.default_rng(0).uniform(0, 1e6, raw[:2].shape)  # nothing overlaps
    found = to_detections((raw,), RAW, DetectOptions(0.0, 1.0, 10**6))
    assert len(found) == MAX_CANDIDATES
    assert found.confidence.min() >= np.sort(raw[4:].max(axis=0))[-MAX_CANDIDATES]


def test_without_candidates_there_are_no_detections() -> None:
    assert len(to_detections((np.zeros((11, 100), np.float32),), RAW, DetectOptions(0.5, 0.7, 300))) == 0


def test_a_confidence_slightly_above_1_becomes_1() -> None:
    raw = np.array([[10, 20, 30, 40, 1.004, 0], [50, 60, 90, 90, 0.5, 0]], np.float32)
    found = to_detections((raw,), END_TO_END, DetectOptions(0.3, 0.7, 300))
    assert found.confidence.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("confidence", [1.5, 145.0, np.inf])
def test_a_confidence_far_above_1_is_an_error(confidence: float) -> None:
    raw = np.array([[10, 20, 30, 40, confidence, 0]], np.float32)
    with pytest.raises(ServeAppError, match="1 is the maximum"):
        to_detections((raw,), END_TO_END, DetectOptions(0.3, 0.7, 300))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_box_that_is_not_finite_is_an_error(number: float) -> None:
    raw = np.array([[10, 20, 30, 40, 0.9, 0], [10, number, 30, 40, 0.8, 0]], np.float32)
    with pytest.raises(ServeAppError, match="not finite"):
        to_detections((raw,), END_TO_END, DetectOptions(0.3, 0.7, 300))
    assert len(to_detections((raw,), END_TO_END, DetectOptions(0.85, 0.7, 300))) == 1  # such a candidate is not used


def test_a_class_may_have_its_own_threshold() -> None:
    raw = crowded(0)
    options = DetectOptions(0.5, 0.7, 3000, class_confidence=((1, 0.2), (4, 0.8)))
    found = to_detections((raw,), RAW, options)
    low, usual, high = (
        to_detections((raw,), RAW, DetectOptions(threshold, 0.7, 3000)) for threshold in (0.2, 0.5, 0.8)
    )
    expected = [*low.confidence[low.class_id == 1], *high.confidence[high.class_id == 4]]
    expected += [*usual.confidence[~np.isin(usual.class_id, (1, 4))]]
    assert sorted(found.confidence.tolist()) == sorted(expected)
    assert found.confidence[found.class_id == 1].min() < 0.5
    rows = to_detections((to_rows(torch.from_numpy(raw)[None], 7)[0].numpy(),), RAW, options)
    assert rows.confidence.tolist() == found.confidence.tolist()


def test_boxes_of_different_classes_suppress_each_other_only_if_asked() -> None:
    raw = crowded(0)
    by_class, agnostic = (
        to_detections((raw,), RAW, DetectOptions(0.3, 0.45, 300, agnostic_nms=agnostic)) for agnostic in (False, True)
    )
    theirs = non_max_suppression(torch.from_numpy(raw)[None], 0.3, 0.45, agnostic=True)[0].numpy()
    np.testing.assert_allclose(agnostic.xyxy, theirs[:, :4], atol=1e-3)
    assert len(agnostic) < len(by_class)

"""The tensors of raw output that clients read, with Ultralytics' own arithmetic as the client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ultralytics.utils.nms import non_max_suppression

from serve_app.models.engines.device import to_rows
from serve_app.models.tasks.candidates import MAX_CANDIDATES
from serve_app.models.tasks.tensors import MIN_CONFIDENCE, to_tensor
from serve_app.types import Task
from tests.support.raw_outputs import CLASSES, crowded, info_of


def found_by_a_client(tensor: NDArray[np.float32], confidence: float = 0.25, **options: Any) -> NDArray[np.float32]:
    """Return the rows that Ultralytics finds in a tensor."""
    (rows,) = non_max_suppression(torch.from_numpy(tensor)[None], confidence, 0.7, max_det=300, nc=CLASSES, **options)
    return np.asarray(rows)


@pytest.mark.parametrize(("task", "numbers"), [("detect", 0), ("pose", 51), ("obb", 1)])
@pytest.mark.parametrize("confidence", [0.25, MIN_CONFIDENCE])
def test_a_client_finds_the_same_in_the_tensor_as_in_the_whole_raw_output(
    task: Task, numbers: int, confidence: float
) -> None:
    extras = np.random.default_rng(1).uniform(0, 1.5, (numbers, 900)).astype(np.float32)
    raw = crowded(0, extras=extras)
    raw[4 : 4 + CLASSES, ::2] = 0  # every second anchor finds nothing
    tensor = to_tensor((raw,), info_of(task, keypoints=17 if task == "pose" else 0))
    assert tensor.shape == (4 + CLASSES + numbers, 450)
    rotated = task == "obb"
    for multi_label in (False, True):
        ours = found_by_a_client(tensor, confidence, rotated=rotated, multi_label=multi_label)
        theirs = found_by_a_client(raw, confidence, rotated=rotated, multi_label=multi_label)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_rows_of_best_classes_become_columns(task: Task) -> None:
    extras = np.random.default_rng(1).uniform(0, 1.5, (int(task == "obb"), 900)).astype(np.float32)
    raw = crowded(2, extras=extras)
    rows = to_rows(torch.from_numpy(raw)[None], CLASSES, rotated=task == "obb")[0].numpy()
    ours = found_by_a_client(to_tensor((rows,), info_of(task)), rotated=task == "obb")
    np.testing.assert_allclose(ours, found_by_a_client(raw, rotated=task == "obb"), atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_few_candidates_are_not_taken_for_the_output_of_an_end_to_end_model(count: int) -> None:
    raw = crowded(3, anchors=100)
    raw[4 : 4 + CLASSES] = 0
    raw[4, :count] = 0.9
    raw[0, :count] = np.arange(count) * 100  # far apart, so that none suppresses another
    tensor = to_tensor((raw,), info_of("detect"))
    assert tensor.shape[1] > 6
    assert len(found_by_a_client(tensor)) == count


def test_only_the_most_confident_candidates_are_kept_if_there_are_too_many() -> None:
    raw = crowded(4, anchors=MAX_CANDIDATES + 1000)
    raw[4 : 4 + CLASSES] = np.random.default_rng(5).uniform(0.1, 1, (CLASSES, raw.shape[1]))
    best = raw[4 : 4 + CLASSES].max(axis=0)
    tensor = to_tensor((raw,), info_of("detect"))
    kept = np.flatnonzero(best >= np.sort(best)[1000])
    assert len(kept) == MAX_CANDIDATES
    np.testing.assert_array_equal(tensor, raw[:, kept])


def test_rows_whose_class_has_no_label_are_left_out_because_the_tensor_has_no_place_for_them() -> None:
    rows = np.array([[0, 0, 9, 9, 0.9, CLASSES], [0, 0, 9, 9, 0.8, 1], [0, 0, 9, 9, 0.7, -1]], np.float32)
    tensor = to_tensor((rows,), info_of("detect"))
    assert tensor.shape[0] == 4 + CLASSES
    assert np.sort(tensor[4:].ravel())[-2:].tolist() == [0, np.float32(0.8)]


def test_the_output_of_an_end_to_end_model_stays_as_it_is() -> None:
    rows = np.random.default_rng(0).uniform(0, 1, (300, 6)).astype(np.float32)
    tensor = to_tensor((rows,), info_of("detect", end_to_end=True))
    np.testing.assert_array_equal(tensor, rows)
    rows[:] = 0  # the engine uses its memory again
    assert tensor.any()


def test_a_classification_model_has_a_probability_for_each_class() -> None:
    probabilities = np.array([0.2, 0.7, 0.1], np.float32)
    info = replace(info_of("classify"), labels=("a", "b", "c"))
    assert to_tensor((probabilities,), info).tolist() == probabilities.tolist()

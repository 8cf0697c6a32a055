"""Tests that the committed models of coloured shapes give right answers with plain Ultralytics.

These models give known answers for every task, on any machine.
"""

from __future__ import annotations

import re
import zipfile
from functools import cache
from typing import Any

import numpy as np
import pytest
from ultralytics import YOLO

from scripts.shapes.scenes import KEYPOINTS, LABELS, Scene
from serve_app.detections import Detections, Mask, Ranking
from tests.support import shapes

TASKS = ("classify", "obb", "pose", "segment")
MOST_BYTES = 2_000_000  # of all models together
SCENES = 40
PORTRAITS = 80


def predict(model: YOLO, image: Scene) -> Detections:
    """Return the answer of Ultralytics' own predictor, in the coordinates of the image."""
    size_px = shapes.PORTRAIT_SIZE_PX if model.task == "classify" else shapes.SIZE_PX
    (result,) = model.predict(
        image.pixels, imgsz=size_px, conf=shapes.CONFIDENCE, retina_masks=True, device="cpu", verbose=False
    )
    return detections_of(result)


def detections_of(result: Any) -> Detections:
    """Return a ``Results`` object of Ultralytics as detections. Its masks must have the size of the image."""
    if result.probs is not None:
        order = result.probs.top5
        probabilities = result.probs.data.numpy()[order]
        ranking = Ranking(np.array(order, np.int32), probabilities.astype(np.float32))
        return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), classes=ranking)
    boxes = result.boxes if result.obb is None else result.obb
    height, width = result.orig_shape
    masks = None if result.masks is None else result.masks.data.numpy().astype(bool)
    return Detections(
        boxes.xyxy.numpy(),
        boxes.conf.numpy(),
        boxes.cls.numpy().astype(np.int32),
        masks=None if masks is None else tuple(Mask(bits, (0, 0, width, height)) for bits in masks),
        keypoints=None if result.keypoints is None else result.keypoints.data.numpy(),
        rotated=None if result.obb is None else result.obb.xywhr.numpy(),
    )


@cache
def answers(task: str) -> list[tuple[Scene, Detections]]:
    """Return images that the models were not trained with, and the answers of Ultralytics."""
    model = YOLO(shapes.weights(task))
    images = shapes.portraits(PORTRAITS) if task == "classify" else shapes.scenes(SCENES)
    return [(image, predict(model, image)) for image in images]


@pytest.mark.parametrize(("task", "least", "most"), [("obb", 0.8, 1), ("pose", 0, 5), ("segment", 0.8, 1)])
def test_ultralytics_finds_the_shapes(task: str, least: float, most: float) -> None:
    """The quality is an IoU, or the distance in pixels of the worst keypoint of a shape."""
    true = found = detected = 0
    qualities: list[float] = []
    for image, answer in answers(task):
        pairs = shapes.matches(image, answer, task)
        true += len(pairs)
        found += sum(index is not None for _, index in pairs)
        detected += len(answer)
        qualities += [shapes.quality(image, shape, answer, index, task) for shape, index in pairs if index is not None]
    assert found >= 0.9 * true
    assert detected - found <= 0.1 * true
    assert least <= np.mean(qualities) <= most


@pytest.mark.parametrize("task", TASKS)
def test_most_answers_of_ultralytics_are_right_in_every_detail(task: str) -> None:
    true = sum(1 if task == "classify" else len(shapes.true_shapes(image, task)) for image, _ in answers(task))
    problems = [problem for image, answer in answers(task) for problem in shapes.disagreements(image, answer, task)]
    assert len(problems) <= 0.1 * true, problems


def test_the_models_know_their_labels_and_keypoints() -> None:
    for task in TASKS:
        model = YOLO(shapes.weights(task))
        assert (model.task, tuple(model.names.values())) == (task, LABELS[task])
    pose = YOLO(shapes.weights("pose")).model
    assert (pose.kpt_shape, pose.kpt_names) == ([4, 3], {0: list(KEYPOINTS), 1: list(KEYPOINTS)})


def test_the_checkpoints_are_small_and_have_no_paths_and_no_dates() -> None:
    files = sorted(shapes.weights("pose").parent.iterdir())
    assert files == [shapes.weights(task) for task in TASKS]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    for file in files:
        with zipfile.ZipFile(file) as archive:
            pickle = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))
        assert not re.findall(rb"/(?:tmp|home|root|work)|20[0-9]{2}-[0-9]{2}", pickle)

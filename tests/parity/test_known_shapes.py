"""Tests that our pipeline finds the coloured shapes of generated scenes, whose answers are known, for every task."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from scripts.shapes.scenes import LABELS
from serve_app.config import ModelArgs
from serve_app.models.load import load
from tests.parity import pipeline
from tests.support import shapes

SCENES = 30


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_most_answers_are_right_in_every_detail(task: str, tmp_path: Path) -> None:
    """The models themselves are wrong about a few shapes: see ``test_shapes.py``.

    Torch needs no export. ``test_tasks.py`` compares all engines with Ultralytics.
    """
    size_px = shapes.PORTRAIT_SIZE_PX if task == "classify" else shapes.SIZE_PX
    args = ModelArgs(weights=str(shapes.weights(task)), image_size_px=size_px, cache_dir=tmp_path, engine="torch")
    model = load(args, has_gpu=False)
    assert (model.info.task, model.info.labels) == (task, LABELS[task])
    images = shapes.portraits(SCENES) if task == "classify" else shapes.scenes(SCENES)
    problems = []
    for image in images:
        encoded = cv2.imencode(".png", image.pixels)[1].tobytes()
        answer, _ = pipeline.results(model, encoded)
        problems += shapes.disagreements(image, answer, task)
    true = sum(1 if task == "classify" else len(shapes.true_shapes(image, task)) for image in images)
    assert len(problems) <= 0.1 * true, problems

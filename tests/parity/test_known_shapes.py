"""Tests that our pipeline finds the coloured shapes of generated scenes, whose answers are known, for every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

from scripts.shapes.scenes import LABELS, Scene
from serve_app.config import ModelArgs
from serve_app.models.engines import Engine
from serve_app.models.load import load
from tests.parity import pipeline
from tests.support import shapes

SCENES = 30
CALIBRATION_SEED = 900  # other images than those on which the model is tried


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_most_answers_are_right_in_every_detail(task: str, tmp_path: Path) -> None:
    """The models themselves are wrong about a few shapes: see ``test_shapes.py``.

    Torch needs no export. ``test_tasks.py`` compares all engines with Ultralytics.
    """
    assert share_of_problems(load(args(task, tmp_path, engine="torch"), has_gpu=False), task) <= 0.1


@pytest.mark.only_with_chaos  # an export takes a minute, and test_weights.py runs a quantised model that detects
@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_most_answers_of_a_quantised_model_are_right_in_every_detail(task: str, tmp_path: Path) -> None:
    (folder := tmp_path / "images").mkdir()
    for number, image in enumerate(images(task, 2 * SCENES, CALIBRATION_SEED)):
        cv2.imwrite(str(folder / f"{number}.png"), image.pixels)
    model = load(
        args(task, tmp_path, engine="openvino", precision="int8", calibration_dir=folder, rectangular=False),
        has_gpu=False,
    )
    assert model.info.precision == "int8"
    assert share_of_problems(model, task) <= 0.15


def args(task: str, cache_dir: Path, **more: Any) -> ModelArgs:
    size_px = shapes.PORTRAIT_SIZE_PX if task == "classify" else shapes.SIZE_PX
    return ModelArgs(weights=str(shapes.weights(task)), image_size_px=size_px, cache_dir=cache_dir, **more)


def images(task: str, count: int, *seed: int) -> list[Scene]:
    return shapes.portraits(count, *seed) if task == "classify" else shapes.scenes(count, *seed)


def share_of_problems(model: Engine, task: str) -> float:
    """Return how many details of the model's answers are wrong, as a share of the shapes."""
    assert (model.info.task, model.info.labels) == (task, LABELS[task])
    problems, true = [], 0
    for image in images(task, SCENES):
        answer, _ = pipeline.results(model, cv2.imencode(".png", image.pixels)[1].tobytes())
        problems += shapes.disagreements(image, answer, task)
        true += 1 if task == "classify" else len(shapes.true_shapes(image, task))
    print(*problems, sep="\n")
    return len(problems) / true

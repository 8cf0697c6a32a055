"""Tests that our pipeline finds the coloured shapes of generated scenes, whose answers are known, for every task."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from ultralytics import YOLO

from scripts.shapes.scenes import LABELS, Scene
from serve_app.config import ModelArgs
from serve_app.models.engines import Engine
from serve_app.models.load import load
from tests.parity import pipeline
from tests.parity.tasks import differences, predict
from tests.support import shapes

SCENES = 30
CALIBRATION_SCENES = 48


def size_px(task: str) -> int:
    return shapes.PORTRAIT_SIZE_PX if task == "classify" else shapes.SIZE_PX


def images_of(task: str, count: int, seed: int = 100) -> list[Scene]:
    return shapes.portraits(count, seed) if task == "classify" else shapes.scenes(count, seed)


def encoded(image: Scene) -> bytes:
    return cv2.imencode(".png", image.pixels)[1].tobytes()


def check(model: Engine, task: str) -> None:
    """Check that most answers of a model are right. The models themselves are wrong about a few shapes."""
    images = images_of(task, SCENES)
    problems = []
    for image in images:
        answer, _ = pipeline.results(model, encoded(image))
        problems += shapes.disagreements(image, answer, task)
    true = sum(1 if task == "classify" else len(shapes.true_shapes(image, task)) for image in images)
    assert len(problems) <= 0.1 * true, problems


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_most_answers_are_right_in_every_detail(task: str, tmp_path: Path) -> None:
    """Torch needs no export. ``test_tasks.py`` compares all engines with Ultralytics."""
    args = ModelArgs(weights=shapes.weights(task), image_size_px=size_px(task), cache_dir=tmp_path, engine="torch")
    model = load(args, has_gpu=False)
    assert (model.info.task, model.info.labels) == (task, LABELS[task])
    check(model, task)


@pytest.mark.parametrize("task", ["segment", "obb", "classify"])
def test_a_quantised_model_is_right_and_has_the_results_of_ultralytics(task: str, tmp_path: Path) -> None:
    for number, image in enumerate(images_of(task, CALIBRATION_SCENES, seed=300)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image.pixels)
    args = ModelArgs(
        weights=shapes.weights(task),
        image_size_px=size_px(task),
        precision="int8",
        calibration_dir=tmp_path,
        cache_dir=tmp_path / "cache",
    )
    model = load(args, has_gpu=False)
    assert model.info.precision == "int8"
    check(model, task)
    (exported,) = args.cache_dir.glob("*_openvino_model")
    theirs = YOLO(exported, task=task)
    for image in [image for image in images_of(task, 9) if image.pixels.shape[0] == image.pixels.shape[1]]:
        found, fitted = pipeline.results(model, encoded(image))
        assert differences(found, fitted, predict(theirs, image.pixels, fitted.input_shape)) == []

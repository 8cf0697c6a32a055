"""Tests that models for the further tasks give the results of Ultralytics' own predictor, with each head and engine.

The models have random weights. The photographs are real.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ultralytics import YOLO

from serve_app.config import ModelArgs
from serve_app.models.engines import Engine
from serve_app.models.engines.ultralytics import export
from serve_app.models.load import load
from serve_app.types import InputShape
from tests.conftest import needs_shared
from tests.parity.pictures import photographs
from tests.parity.pipeline import results
from tests.parity.tasks import differences, predict
from tests.parity.untrained import save_untrained_task
from tests.support.paths import SHARED

SIZE_PX = 320
POSE = SHARED / "weights" / "yolov8n-pose_int8_openvino_model"
KINDS = [
    *(f"{name}-{task}{head}" for task in ("seg", "pose", "obb") for name, head in (
        ("yolov8n", ""), ("yolo11n", ""), ("yolo26n", ""), ("yolo26n", " end-to-end")
    )),
    *(f"{name}-cls" for name in ("yolov8n", "yolo11n", "yolo26n")),
]  # fmt: skip


def _version(kind: str) -> str:
    """Return a kind without its task: ``yolo26n-seg end-to-end`` becomes ``yolo26n end-to-end``."""
    return re.sub("-[a-z]+", "", kind, count=1)


ENGINES = ["torch", "onnx", "openvino"]
FAST = {("yolo11n", "openvino"), ("yolo26n end-to-end", "onnx")}  # versions, for every task
CASES = [
    pytest.param(kind, engine, marks=() if (_version(kind), engine) in FAST else pytest.mark.only_with_chaos)
    for kind in KINDS
    for engine in ENGINES
]


@pytest.fixture(scope="module")
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained_task(request.param, tmp_path_factory.mktemp("models"), SIZE_PX)


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that exports the checkpoint for an engine, so that the file takes any size.

    OpenVINO reads ONNX files, too. But it cannot run those with an end-to-end head for another task than detection.
    """

    @cache
    def export_as(format: str) -> Path:
        copy = tmp_path_factory.mktemp("exported") / checkpoint.name
        copy.write_bytes(checkpoint.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about constants in the graph
            return export(copy, format=format, input_shape=(SIZE_PX, SIZE_PX), any_size=True)

    is_end_to_end = checkpoint.stem.endswith("end-to-end")
    return lambda engine: export_as("openvino" if engine == "openvino" and is_end_to_end else "onnx")


Expected = Callable[[int, InputShape], Any]


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> Expected:
    """Return a function that returns Ultralytics' result for one of ``photographs()`` and an input of this shape."""
    yolo = YOLO(checkpoint)
    return cache(lambda index, shape: predict(yolo, photographs()[index], shape))


@pytest.mark.parametrize(("checkpoint", "engine"), CASES, indirect=["checkpoint"])
def test_the_results_are_those_of_ultralytics(
    checkpoint: Path, exported: Callable[[str], Path], expected: Expected, engine: str
) -> None:
    weights = checkpoint if engine == "torch" else exported(engine)
    args = ModelArgs.model_validate({"weights": weights, "engine": engine, "image_size_px": SIZE_PX})
    loaded = load(args, has_gpu=False)
    assert loaded.info.end_to_end == checkpoint.stem.endswith("end-to-end")
    check(loaded, expected)


def check(loaded: Engine, expected: Expected) -> None:
    shapes = set()
    for index, pixels in enumerate(photographs()):
        data = cv2.imencode(".png", pixels)[1].tobytes()
        found, fitted = results(loaded, data)
        shapes.add(fitted.input_shape)
        theirs = expected(index, fitted.input_shape)
        assert theirs.probs is not None or len(theirs) >= 20
        assert differences(found, fitted, theirs) == []
    assert len(shapes) == 2 - (loaded.info.task == "classify")


@needs_shared
@pytest.mark.parametrize("path", sorted(SHARED.glob("images/*.jpg")), ids=lambda path: path.name)
def test_the_keypoints_in_photographs_of_people_are_those_of_ultralytics(path: Path) -> None:
    pose, yolo = _pose()
    found, fitted = results(pose, path.read_bytes())
    pixels = np.asarray(cv2.imread(str(path)))
    assert differences(found, fitted, predict(yolo, pixels, fitted.input_shape)) == []


@cache
def _pose() -> tuple[Engine, YOLO]:
    return load(ModelArgs(weights=POSE), has_gpu=False), YOLO(POSE, task="pose")

"""Tests that models with random weights and either YOLO head give the same output as Ultralytics' own predictor."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from ultralytics import YOLO

from serve_app.config import ModelArgs
from serve_app.models.load import load
from tests.parity.pictures import colourful
from tests.parity.pipeline import detect, shape_for
from tests.parity.reference import disagreements, predict
from tests.parity.untrained import CLEAR, SIZE_PX, save_untrained

HEADS = ["yolo26n end-to-end", "yolo26n", "yolo11n", "yolov8n"]
ENGINES = ["openvino", "onnx", "torch"]
FAST = {
    ("yolo26n end-to-end", "openvino"),
}
CASES = [
    pytest.param(head, engine, marks=() if (head, engine) in FAST else pytest.mark.only_with_chaos)
    for head in HEADS
    for engine in ENGINES
]


@pytest.fixture(scope="module")
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(request.param, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(("checkpoint", "engine"), CASES, indirect=["checkpoint"])
def test_the_detections_are_those_of_ultralytics(checkpoint: Path, engine: str, tmp_path: Path) -> None:
    args = ModelArgs.model_validate(
        {"weights": checkpoint, "engine": engine, "image_size_px": SIZE_PX, "cache_dir": tmp_path}
    )
    loaded = load(args, has_gpu=False)
    assert loaded.info.end_to_end == checkpoint.stem.endswith("end-to-end")
    picture = colourful()
    upright = np.ascontiguousarray(np.rot90(picture))
    for pixels, shape in [(picture, (480, 640)), (upright, (640, 480)), (picture[:, :480], (640, 640))]:
        expected = predict(YOLO(checkpoint), pixels, size_px=shape)
        assert sum(found.confidence > CLEAR for found in expected) >= 20
        assert len({found.confidence for found in expected}) > 10  # the detections differ
        data = cv2.imencode(".png", pixels)[1].tobytes()
        assert shape_for(loaded, data) == shape
        assert disagreements(detect(loaded, data), expected) == []


@pytest.mark.only_with_chaos  # a unit test of weights keeps an export, too
@pytest.mark.parametrize("checkpoint", ["yolov8n"], indirect=True)
def test_a_checkpoint_is_exported_once(checkpoint: Path, tmp_path: Path) -> None:
    args = ModelArgs.model_validate(
        {"weights": checkpoint, "engine": "openvino", "image_size_px": 320, "cache_dir": tmp_path}
    )
    load(args, has_gpu=False)
    exported = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    load(args, has_gpu=False)
    load(args.model_copy(update={"rectangular": False}), has_gpu=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == exported
    assert [path.name for path in checkpoint.parent.iterdir()] == [
        checkpoint.name
    ]  # the exported model is in another folder
    assert np.array_equal([path.suffix for path in tmp_path.iterdir() if path.is_file()], [".lock"])

"""Tests that, with real weights, Sightline finds the same boxes in real photographs as Ultralytics."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest
import torch
from ultralytics import YOLO

from serve_app.config import ModelArgs
from serve_app.models.engines import Engine
from serve_app.models.load import load
from tests.conftest import needs_shared
from tests.parity.pictures import save_extremes, shipped
from tests.parity.pipeline import detect
from tests.parity.reference import disagreements, predict
from tests.support.paths import SHARED

pytestmark = needs_shared

CASES = [
    ("yolov8n.pt", "openvino", "auto"),
    ("yolov8n.pt", "openvino", "auto with images"),  # chooses bf16 if bf16 finds the same objects in the images
    ("yolov8n.pt", "openvino", "int8"),
    ("yolov8n.pt", "onnx", "auto"),
    ("yolov8n.pt", "torch", "auto"),
    ("yolov8n.pt", "torch", "fp16"),
    ("yolov8n_int8_openvino_model", "openvino", "auto"),
    ("yolo11n_int8_openvino_model", "openvino", "auto"),
]


@pytest.fixture(scope="module")
def calibration_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the photographs and every 12th frame of the videos in one folder."""
    folder = tmp_path_factory.mktemp("calibration")
    for path in SHARED.glob("images/*.jpg"):
        shutil.copy(path, folder)
    for path in SHARED.glob("videos/*"):
        video = cv2.VideoCapture(str(path))
        for number in range(600):
            is_read, pixels = video.read()
            if is_read and number % 12 == 0:
                cv2.imwrite(str(folder / f"{path.stem}-{number}.jpg"), pixels)
        video.release()
    return folder


@pytest.fixture(scope="module", params=CASES, ids=lambda case: " ".join(case))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, calibration_dir: Path
) -> tuple[Engine, YOLO]:
    """Load the same weights with Sightline and with Ultralytics. For int8, both load Sightline's converted weights."""
    name, engine, chosen = request.param
    precision = chosen.partition(" ")[0]
    on_gpu = precision == "fp16"
    if on_gpu and not torch.cuda.is_available():
        pytest.skip("needs a GPU with CUDA")
    cache, weights = tmp_path_factory.mktemp("cache"), SHARED / "weights" / name
    pictures = calibration_dir if chosen in {"int8", "auto with images"} else None
    args = ModelArgs(weights=weights, engine=engine, precision=precision, calibration_dir=pictures, cache_dir=cache)
    ours = load(args, has_gpu=on_gpu)
    if precision == "int8":
        (weights,) = cache.glob("*_openvino_model")
    return ours, YOLO(weights, task="detect")


@pytest.mark.parametrize("path", [*sorted(SHARED.glob("images/*.jpg")), *shipped()], ids=lambda path: path.name)
def test_the_boxes_in_photographs_are_those_of_ultralytics(pair: tuple[Engine, YOLO], path: Path) -> None:
    ours, theirs = pair
    assert disagreements(detect(ours, path.read_bytes()), predict(theirs, path)) == []


def test_the_boxes_in_pictures_of_difficult_sizes_are_those_of_ultralytics(
    pair: tuple[Engine, YOLO], tmp_path: Path
) -> None:
    ours, theirs = pair
    for path in save_extremes(tmp_path):
        assert disagreements(detect(ours, path.read_bytes()), predict(theirs, path)) == [], path.name

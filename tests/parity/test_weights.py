"""Tests that, with real weights, Sightline finds the same boxes in real photographs as Ultralytics."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ultralytics import YOLO

from serve_app.config import ModelArgs
from serve_app.models.engines import Engine
from serve_app.models.load import load
from serve_app.types import InputShape
from tests.conftest import needs_shared
from tests.parity.pictures import save_extremes, shipped
from tests.parity.pipeline import detect, detect_batch, shape_for
from tests.parity.reference import Found, disagreements, predict
from tests.support.paths import SHARED

pytestmark = needs_shared

PHOTOGRAPHS = [*sorted(SHARED.glob("images/*.jpg")), *shipped()]
CASES = [
    ("yolov8n.pt", "openvino", "auto"),
    ("yolov8n.pt", "torch", "fp16"),
    ("yolov8n_int8_openvino_model", "openvino", "auto"),
]
SLOW_CASES = [
    ("yolov8n.pt", "openvino", "auto with images"),  # chooses bf16 if bf16 finds the same objects in the images
    ("yolov8n.pt", "openvino", "int8"),
    ("yolov8n.pt", "onnx", "auto"),
    ("yolov8n.pt", "torch", "auto"),
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


@pytest.fixture(
    scope="module",
    params=[*CASES, *(pytest.param(case, marks=pytest.mark.only_with_chaos) for case in SLOW_CASES)],
    ids=lambda case: " ".join(case),
)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, calibration_dir: Path
) -> tuple[Engine, Path]:
    """Load weights with Sightline. Return the engine, and the path of the weights for Ultralytics.

    For int8, both load Sightline's converted weights.
    """
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
    return ours, weights


@cache
def reference(weights: Path) -> YOLO:
    """Load weights with Ultralytics."""
    yolo = YOLO(weights, task="detect")
    if "anysize" in weights.name:
        # On a CPU with AMX, Ultralytics would give every image the square, because OpenVINO may crash if it runs an
        # int8 model with a shape that is not fixed: https://github.com/openvinotoolkit/openvino/issues/37577
        # Ultralytics fixes the shape before it runs the model, so it can take the shapes that we choose.
        yolo.predict(np.zeros((640, 640, 3), np.uint8), verbose=False, device="cpu")
        yolo.predictor.model.backend.dynamic = True
    return yolo


@cache
def expected(weights: Path, picture: Path, shape: InputShape) -> list[Found]:
    """Return what Ultralytics finds if it letterboxes the image to this shape.

    Several of the cases above have the same weights.
    """
    return predict(reference(weights), picture, size_px=shape)


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Save the photographs with the other orientation, and return their paths."""
    folder = tmp_path_factory.mktemp("rotated")
    paths = [folder / f"{path.stem}.png" for path in PHOTOGRAPHS]
    for path, photograph in zip(paths, PHOTOGRAPHS, strict=True):
        cv2.imwrite(str(path), cv2.rotate(cv2.imread(str(photograph)), cv2.ROTATE_90_CLOCKWISE))
    return paths


@pytest.fixture(scope="module")
def extremes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Save images of difficult sizes, and return their paths."""
    return list(save_extremes(tmp_path_factory.mktemp("extremes")))


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.name)
def test_the_boxes_in_photographs_are_those_of_ultralytics(pair: tuple[Engine, Path], path: Path) -> None:
    check(pair, path)


@pytest.mark.parametrize("number", range(len(PHOTOGRAPHS)))
def test_the_boxes_in_rotated_photographs_are_those_of_ultralytics(
    pair: tuple[Engine, Path], rotated: list[Path], number: int
) -> None:
    check(pair, rotated[number])


def test_the_boxes_in_pictures_of_difficult_sizes_are_those_of_ultralytics(
    pair: tuple[Engine, Path], extremes: list[Path]
) -> None:
    for path in extremes:
        check(pair, path)


def test_a_batch_gives_the_boxes_of_single_images(
    pair: tuple[Engine, Path], rotated: list[Path], extremes: list[Path]
) -> None:
    ours, weights = pair
    by_shape: dict[InputShape, list[Path]] = {}
    for path in [*PHOTOGRAPHS, *rotated, *extremes]:
        by_shape.setdefault(shape_for(ours, path.read_bytes()), []).append(path)
    for shape, paths in by_shape.items():
        for batch in (paths[:5], paths[5:]):
            found = detect_batch(ours, [path.read_bytes() for path in batch]) if batch else []
            for path, ours_in_it in zip(batch, found, strict=True):
                assert disagreements(ours_in_it, expected(weights, path, shape)) == [], path.name


def check(pair: tuple[Engine, Path], path: Path) -> None:
    """Check that we find in the image what Ultralytics finds in a model input of the same shape."""
    ours, weights = pair
    data = path.read_bytes()
    assert disagreements(detect(ours, data), expected(weights, path, shape_for(ours, data))) == [], path.name

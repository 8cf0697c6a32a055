"""Real weights on real photographs: our boxes are plain Ultralytics' on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultralytics import YOLO

from serve_app.config import ModelArgs
from serve_app.engines import Engine
from serve_app.models import load
from tests.conftest import SHARED, needs_shared
from tests.parity.pictures import save_extremes, shipped
from tests.parity.pipeline import detect
from tests.parity.reference import disagreements, predict

pytestmark = needs_shared

CASES = [
    ("yolov8n.pt", "openvino"),
    ("yolov8n.pt", "torch"),
    ("yolov8n_int8_openvino_model", "openvino"),
    ("yolo11n_int8_openvino_model", "openvino"),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} through {case[1]}")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, YOLO]:
    """Our engine and Ultralytics, on the same weights."""
    name, engine = request.param
    weights = SHARED / "weights" / name
    args = ModelArgs(weights=weights, engine=engine, cache_dir=tmp_path_factory.mktemp("cache"))
    return load(args, has_gpu=False), YOLO(weights, task="detect")


@pytest.mark.parametrize("path", [*sorted(SHARED.glob("images/*.jpg")), *shipped()], ids=lambda path: path.name)
def test_a_photographs_boxes_are_those_of_ultralytics(pair: tuple[Engine, YOLO], path: Path) -> None:
    ours, theirs = pair
    assert disagreements(detect(ours, path.read_bytes()), predict(theirs, path)) == []


def test_hard_sizes_boxes_are_those_of_ultralytics(pair: tuple[Engine, YOLO], tmp_path: Path) -> None:
    ours, theirs = pair
    for path in save_extremes(tmp_path):
        assert disagreements(detect(ours, path.read_bytes()), predict(theirs, path)) == [], path.name

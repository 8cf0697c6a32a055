"""The embedded model through both engines: same boxes as Ultralytics' own predictor on its weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import openvino
import pytest
from ultralytics import YOLO

from scripts.codes import dataset, samples
from serve_app.config import ModelArgs
from serve_app.models.engines.ultralytics import load_network
from serve_app.models.load import load
from serve_app.models.weights import EMBEDDED
from tests.parity.pipeline import detect
from tests.parity.reference import disagreements, predict
from tests.support import squares


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> YOLO:
    """Ultralytics with the same weights, as a checkpoint of its own."""
    network, labels = load_network(EMBEDDED / "codes.safetensors")
    network.names = dict(enumerate(labels))
    yolo = YOLO("yolo11n.yaml")
    yolo.model = network
    path = tmp_path_factory.mktemp("models") / "codes.pt"
    yolo.save(path)
    return YOLO(path)


@pytest.mark.parametrize("engine", ["openvino", "onnx", "torch"])
def test_codes_are_detected_as_ultralytics_does(reference: YOLO, engine: str) -> None:
    ours = load(ModelArgs(engine=engine), has_gpu=False)
    scenes = [samples.picture(1), samples.belt_frame(60)]
    scenes += [dataset.scene(5, dataset.TEST, number, 640) for number in range(12)]
    seen = 0
    for scene in scenes:
        expected = predict(reference, scene.pixels)
        data = cv2.imencode(".png", scene.pixels)[1].tobytes()
        assert disagreements(detect(ours, data), expected) == []
        seen += len(expected)
    assert seen > 20


def test_auto_computes_in_bf16_only_where_that_finds_the_same(tmp_path: Path, squares_model: Path) -> None:
    """The embedded model does not, on codes; on an empty picture every model does, which tells nothing."""
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bf16")
    (tmp_path / "plain").mkdir()
    cv2.imwrite(str(tmp_path / "plain" / "grey.png"), np.full((64, 64, 3), 114, np.uint8))
    (tmp_path / "codes").mkdir()
    for number in range(12):
        scene = dataset.scene(5, dataset.TEST, number, 640)
        cv2.imwrite(str(tmp_path / "codes" / f"{number}.png"), scene.pixels)
    chosen = [
        load(ModelArgs(calibration_dir=tmp_path / folder), has_gpu=False).info.precision
        for folder in ("plain", "codes")
    ]
    assert chosen == ["fp32", "fp32"]
    (tmp_path / "squares").mkdir()
    for number in range(20):
        picture = squares.picture([squares.Square("red", number, 3, 240), squares.Square("blue", 30, number, 240)])
        cv2.imwrite(str(tmp_path / "squares" / f"{number}.png"), picture)
    args = ModelArgs(weights=squares_model, calibration_dir=tmp_path / "squares")
    assert load(args, has_gpu=False).info.precision == "bf16"

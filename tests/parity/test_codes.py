"""The embedded model through both engines: same boxes as Ultralytics' own predictor on its weights."""

from __future__ import annotations

import cv2
import pytest
from ultralytics import YOLO

from scripts.codes import dataset, samples
from serve_app import models
from serve_app.config import ModelArgs
from serve_app.engines.ultralytics import load_network
from tests.parity.pipeline import detect
from tests.parity.reference import disagreements, predict


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> YOLO:
    """Ultralytics with the same weights, as a checkpoint of its own."""
    network, labels = load_network(models.EMBEDDED / "codes.safetensors")
    network.names = dict(enumerate(labels))
    yolo = YOLO("yolo11n.yaml")
    yolo.model = network
    path = tmp_path_factory.mktemp("models") / "codes.pt"
    yolo.save(path)
    return YOLO(path)


@pytest.mark.parametrize("engine", ["openvino", "onnx", "torch"])
def test_codes_are_detected_as_ultralytics_does(reference: YOLO, engine: str) -> None:
    ours = models.load(ModelArgs(engine=engine), has_gpu=False)
    scenes = [samples.picture(1), samples.belt_frame(60)]
    scenes += [dataset.scene(5, dataset.TEST, number, 640) for number in range(12)]
    seen = 0
    for scene in scenes:
        expected = predict(reference, scene.pixels)
        data = cv2.imencode(".png", scene.pixels)[1].tobytes()
        assert disagreements(detect(ours, data), expected) == []
        seen += len(expected)
    assert seen > 20

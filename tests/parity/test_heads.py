"""Tests that models with random weights and either YOLO head give the same output as Ultralytics' own predictor."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ultralytics import YOLO

from serve_app.config import ModelArgs
from serve_app.images.letterbox import letterbox
from serve_app.models.load import load
from tests.parity.pictures import colourful
from tests.parity.pipeline import detect
from tests.parity.reference import disagreements, predict

SIZE_PX = 640
CLEAR = 0.4  # a score well above THRESHOLD, so that a detection is no borderline case


def model_input() -> torch.Tensor:
    """Return ``colourful()`` as an input tensor for the network."""
    slot = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    letterbox(colourful(), slot)
    return torch.from_numpy(slot[None, :, :, ::-1].copy()).permute(0, 3, 1, 2) / 255


def confident(network: torch.nn.Module) -> int:
    """Return the number of positions (raw head) or rows (end-to-end head) with a score above ``CLEAR``."""
    raw = network.eval()(model_input())[0]
    scores = raw[0, :, 4] if raw.shape[-1] == 6 else raw[0, 4:].amax(0)
    return int((scores > CLEAR).sum())


def spread_scores(network: torch.nn.Module, branches: torch.nn.ModuleList) -> None:
    """Scale the weights of the last layers to spread the scores.

    The scores of an untrained network hardly differ, so rounding would decide which detections are kept.
    """
    outputs: list[torch.Tensor] = []
    hooks = [branch[-1].register_forward_hook(lambda *call: outputs.append(call[-1])) for branch in branches]
    network.eval()(model_input())
    for hook, branch, output in zip(hooks, branches, outputs, strict=True):
        hook.remove()
        # Limit the factor, because a checkpoint is saved in fp16 and must not overflow.
        branch[-1].weight.mul_((1 / output.std(dim=(2, 3)).mean()).clamp(max=1e5))


@pytest.fixture(scope="module", params=["yolo26n end-to-end", "yolo26n", "yolo11n", "yolov8n"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Initialise a model randomly, raise its class biases until it finds objects, and save it."""
    torch.manual_seed(0)
    name, _, end_to_end = request.param.partition(" ")
    yolo = YOLO(f"{name}.yaml")
    yolo.model.names = {class_id: f"class {class_id}" for class_id in range(80)}
    path = tmp_path_factory.mktemp("models") / f"{request.param.replace(' ', '-')}.pt"
    with torch.no_grad():
        for module in yolo.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # amplify differences between positions
                module.weight.mul_(1.8)
        head = yolo.model.model[-1]
        if end_to_end:
            yolo.model.end2end = True
            yolo.model.fuse(verbose=False)  # removes the other head
        branches = head.one2one_cv3 if end_to_end else head.cv3
        spread_scores(yolo.model, branches)
        for _ in range(80):
            if confident(yolo.model) >= 200:
                break
            for branch in branches:
                branch[-1].bias.add_(0.25)
    yolo.save(path)
    return path


@pytest.mark.parametrize("engine", ["openvino", "onnx", "torch"])
def test_the_detections_are_those_of_ultralytics(checkpoint: Path, engine: str, tmp_path: Path) -> None:
    expected = predict(YOLO(checkpoint), colourful())
    assert sum(found.confidence > CLEAR for found in expected) >= 20
    assert len({found.confidence for found in expected}) > 10  # the detections differ
    args = ModelArgs.model_validate(
        {"weights": checkpoint, "engine": engine, "image_size_px": SIZE_PX, "cache_dir": tmp_path}
    )
    loaded = load(args, has_gpu=False)
    assert loaded.info.end_to_end == checkpoint.stem.endswith("end-to-end")
    data = cv2.imencode(".png", colourful())[1].tobytes()
    assert disagreements(detect(loaded, data), expected) == []


def test_a_checkpoint_is_exported_once(checkpoint: Path, tmp_path: Path) -> None:
    args = ModelArgs.model_validate(
        {"weights": checkpoint, "engine": "openvino", "image_size_px": 320, "cache_dir": tmp_path}
    )
    load(args, has_gpu=False)
    exported = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    load(args, has_gpu=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == exported
    assert [path.name for path in checkpoint.parent.iterdir()] == [
        checkpoint.name
    ]  # the exported model is in another folder
    assert np.array_equal([path.suffix for path in tmp_path.iterdir() if path.is_file()], [".lock"])

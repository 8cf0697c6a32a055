"""Tests that, with the embedded model, every engine finds the same boxes as Ultralytics' own predictor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import openvino
import pytest
from ultralytics import YOLO

from scripts.codes import dataset, samples
from serve_app.config import ModelArgs
from serve_app.models.engines import Engine
from serve_app.models.engines.ultralytics import load_network
from serve_app.models.load import load
from serve_app.models.weights import EMBEDDED
from serve_app.types import Json
from tests.parity.pipeline import detect, shape_for
from tests.parity.reference import Found, disagreements, predict
from tests.support import squares


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> YOLO:
    """Load the embedded model's weights into Ultralytics, by way of a checkpoint."""
    network, metadata = load_network(EMBEDDED / "codes.safetensors")
    network.names = metadata["names"]
    yolo = YOLO("yolo11n.yaml")
    yolo.model = network
    path = tmp_path_factory.mktemp("models") / "codes.pt"
    yolo.save(path)
    return YOLO(path)


@cache
def pictures() -> tuple[np.ndarray, ...]:
    """Draw 14 images of codes. The first two of them follow once more in portrait format."""
    scenes = [samples.picture(1), samples.belt_frame(60)]
    scenes += [dataset.scene(5, dataset.TEST, number, 640) for number in range(12)]
    upright = [np.ascontiguousarray(np.rot90(scene.pixels)) for scene in scenes[:2]]
    return (*(scene.pixels for scene in scenes), *upright)


Expected = Callable[[int, tuple[int, int]], list[Found]]


@pytest.fixture(scope="module")
def expected(reference: YOLO) -> Expected:
    """Return a function that returns what Ultralytics finds in one of ``pictures()``, for a height and a width."""
    return cache(lambda index, shape: predict(reference, pictures()[index], size_px=shape))


@pytest.mark.parametrize("engine", ["openvino", "onnx", "torch"])
def test_codes_are_detected_as_ultralytics_does(expected: Expected, engine: str) -> None:
    ours = load(ModelArgs(engine=engine), has_gpu=False)
    assert count_of_agreements(ours, expected, range(16)) > 20


def count_of_agreements(ours: Engine, expected: Expected, indices: Iterable[int]) -> int:
    """Check that we find in these images what Ultralytics finds, and return how many objects that are.

    Ultralytics letterboxes each image to the shape that we choose.
    """
    seen = 0
    for index in indices:
        data = cv2.imencode(".png", pictures()[index])[1].tobytes()
        theirs = expected(index, shape_for(ours, data))
        assert disagreements(detect(ours, data), theirs) == []
        seen += len(theirs)
    return seen


EXPORTS: dict[str, Json] = {
    "a rectangle": {"imgsz": [384, 640]},  # for 16:9 video
    "a batch of four": {"batch": 4},
    "fp16": {"quantize": 16},
    "open sizes": {"dynamic": True},
    "open sizes, NMS in the file": {"dynamic": True, "nms": True},
    "NMS in the file": {"nms": True},
    "NMS in the file, a rectangle": {"nms": True, "imgsz": [384, 640]},
}


FAST = ("a rectangle", "fp16", "open sizes", "open sizes, NMS in the file")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in FAST else pytest.mark.only_with_chaos) for name in EXPORTS],
)
def export(request: pytest.FixtureRequest, reference: YOLO) -> tuple[Path, tuple[int, int], Json]:
    """Export the embedded model with Ultralytics.

    Return the file, the height and width of its largest input, and the options of the export.
    """
    options = EXPORTS[request.param]
    with warnings.catch_warnings(action="ignore"):  # PyTorch warns about every branch in the traced network
        path = Path(reference.export(format="onnx", verbose=False, **options))
    height, width = options.get("imgsz", (640, 640))
    return path, (height, width), options


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_an_exported_file_gives_the_boxes_of_ultralytics(
    expected: Expected, export: tuple[Path, tuple[int, int], Json], engine: str
) -> None:
    path, shape, options = export
    ours = load(ModelArgs.model_validate({"weights": path, "engine": engine}), has_gpu=False)
    assert ours.info.input_shape == shape
    assert ours.info.suppression == ("in_file" if "nms" in options else "by_request")
    assert bool(ours.info.rectangles) == ("dynamic" in options)
    assert count_of_agreements(ours, expected, (*range(8), 14, 15)) > 10


@pytest.mark.only_with_chaos  # tests of the precision cover the choice with a small model
def test_auto_uses_bf16_only_if_it_finds_the_same_objects(tmp_path: Path, squares_model: Path) -> None:
    """Check the precision that ``auto`` chooses.

    With bf16, the embedded model finds different objects in images of codes. In an empty image, the embedded model
    finds no objects, so bf16 and fp32 cannot be compared. The squares model finds the same objects with bf16 as with
    fp32.
    """
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("needs a CPU with support for bf16")
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

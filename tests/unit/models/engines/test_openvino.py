from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.engines import Engine
from serve_app.models.load import load
from serve_app.models.tasks.detect import to_detections
from serve_app.types import DetectOptions
from tests.support import squares
from tests.support.squares import Square

OPTIONS = DetectOptions(confidence=0.3, iou=0.7, max_detections=300)


@pytest.fixture(params=["folder", "onnx"])
def engine(request: pytest.FixtureRequest, squares_model: Path, tmp_path: Path) -> Engine:
    path = squares_model if request.param == "folder" else squares.save_onnx(tmp_path / "squares.onnx")
    return load(ModelArgs(weights=path, threads=1), has_gpu=False)


def test_every_square_is_found_in_its_place(engine: Engine) -> None:
    drawn = [Square("red", 0, 0), Square("green", 20, 7, 250), Square("blue", 36, 36, 240)]
    (raw,) = engine.infer([squares.picture(drawn)])
    found = to_detections(raw, OPTIONS, end_to_end=engine.info.end_to_end)
    assert [engine.info.labels[class_id] for class_id in found.class_id] == ["red", "green", "blue"]
    np.testing.assert_allclose(found.xyxy, [square.box for square in drawn], atol=1e-3)
    np.testing.assert_allclose(found.confidence, [square.confidence for square in drawn], atol=1e-3)


def test_a_batch_returns_each_frames_own_result(engine: Engine) -> None:
    pictures = [squares.picture([Square("red", column, column)]) for column in range(0, 24, 3)]
    for column, raw in zip(range(0, 24, 3), engine.infer(pictures), strict=True):
        found = to_detections(raw, OPTIONS, end_to_end=False)
        assert found.xyxy[:, 0].tolist() == [column * squares.STRIDE_PX]


def test_a_batch_of_read_only_frames_is_read(engine: Engine) -> None:
    """Read-only frames are copied, and the copies must live until the engine has read them."""
    for _ in range(10):
        frames = [squares.picture([Square("blue", column, 3)]) for column in range(30)]
        for frame in frames:
            frame.flags.writeable = False
        for column, raw in enumerate(engine.infer(frames)):
            found = to_detections(raw, OPTIONS, end_to_end=False)
            assert found.xyxy[:, 0].tolist() == [column * squares.STRIDE_PX]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"one \.xml file"):
        load(ModelArgs(weights=tmp_path), has_gpu=False)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metadata.yaml", "task: detect\nnames: {0: red}\n", "no YOLO detection head with the 1 classes"),
        ("metadata.yaml", "task: detect\nnames: {0: red, 2: blue}\n", "does not name its classes"),
        ("metadata.yaml", "task: detect\nnames: 5\n", "does not name its classes"),
        ("metadata.yaml", "- a list\n", "no model metadata"),
        ("metadata.yaml", "a: [", "cannot be read"),
        ("squares.xml", "<net", "OpenVINO cannot read squares.xml"),
        ("squares.bin", "", "OpenVINO cannot read squares.xml"),
    ],
)
def test_a_damaged_export_is_refused_in_one_sentence(
    squares_model: Path, tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    folder = tmp_path / "squares_openvino_model"
    folder.mkdir()
    for path in squares_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=sentence):
        load(ModelArgs(weights=folder), has_gpu=False)


def test_the_precision_of_an_engine_is_reported(squares_model: Path) -> None:
    assert load(ModelArgs(weights=squares_model, threads=1), has_gpu=False).info.precision == "fp32"

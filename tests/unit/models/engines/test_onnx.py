from __future__ import annotations

from pathlib import Path

from onnxruntime.quantization import quantize_dynamic

from serve_app.config import ModelArgs
from serve_app.models.load import load
from serve_app.models.tasks import to_detections
from serve_app.types import DetectOptions
from tests.support import squares
from tests.support.squares import Square

OPTIONS = DetectOptions(confidence=0.3, iou=0.7, max_detections=300)


def test_onnx_runtime_finds_the_squares(tmp_path: Path) -> None:
    path = squares.save_onnx(tmp_path / "squares.onnx")
    engine = load(ModelArgs(weights=path, engine="onnx", threads=1), has_gpu=False)
    frames = [squares.picture([Square("red", 0, 0), Square("green", 20, 7, 250)]), squares.picture([])]
    found = [to_detections(raw, engine.info, OPTIONS) for raw in engine.infer(frames)]
    assert [engine.info.labels[class_id] for class_id in found[0].class_id] == ["red", "green"]
    assert [len(one) for one in found] == [2, 0]
    assert (engine.info.engine, engine.info.precision) == ("onnx", "fp32")


def test_a_quantised_onnx_file_reports_int8(tmp_path: Path) -> None:
    quantize_dynamic(squares.save_onnx(tmp_path / "squares.onnx"), tmp_path / "int8.onnx")
    assert load(ModelArgs(weights=tmp_path / "int8.onnx", engine="onnx"), has_gpu=False).info.precision == "int8"

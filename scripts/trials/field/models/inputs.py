"""Cases of model inputs: rectangles, batches, channels, number formats, dynamic sizes, and every form of INT8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from scripts.trials.field.case import Case
from scripts.trials.field.models.constant import CONFIDENCE, anchors, rewrite, save, save_folder
from scripts.trials.field.models.verdicts import CPU_ENGINES, EngineName, Make, Problem, refused, served
from serve_app.config import ModelArgs
from serve_app.images.letterbox import letterbox
from serve_app.images.map_back import to_picture
from serve_app.models.load import load
from serve_app.models.tasks import to_detections
from serve_app.types import DetectOptions, Precision

_RECTANGLE = (384, 640)  # height, width


def _onnx(*sides: int | str, dtype: int = TensorProto.FLOAT, count: int = 84, **options: object) -> Make:
    return lambda folder: save(
        folder / "constant.onnx",
        anchors(count=count),
        sides=sides,
        dtype=dtype,
        **options,  # type: ignore[arg-type]
    )


def _folder(*sides: int | str, count: int = 84) -> Make:
    return lambda folder: save_folder(
        folder / "constant_openvino_model", anchors(count=count), metadata="names: [person, car]\n", sides=sides
    )


def _minus_one(folder: Path) -> Path:
    """Make a model with dynamic sides that are written as -1, like those of older exporters."""

    def open_sides(model: onnx.ModelProto) -> None:
        for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            side.dim_value = -1

    return rewrite(save(folder / "constant.onnx", anchors(count=8400)), open_sides)


def _two_inputs(folder: Path) -> Path:
    """Make a model with two inputs, an image and its size, like the export of the original RT-DETR."""
    size = helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [1, 2])
    return rewrite(save(folder / "constant.onnx", anchors()), lambda model: model.graph.input.append(size))


def _reshaping(batch: int) -> Make:
    """Make a model whose Reshape node contains a fixed batch size, like Ultralytics' exports with ``batch=N``."""

    def reshape(model: onnx.ModelProto) -> None:
        (output,) = model.graph.output
        shape = np.array([batch, 6, -1], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(shape, "with_batch"))
        model.graph.node.append(helper.make_node("Reshape", [output.name, "with_batch"], ["reshaped"]))
        output.name = "reshaped"

    return lambda folder: rewrite(save(folder / "constant.onnx", anchors(), sides=(batch, 3, 64, 64)), reshape)


def _named(name: str) -> Make:
    """Make a model whose input is called ``name``. Ultralytics calls the input ``images``."""

    def rename(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = name

    return lambda folder: rewrite(save(folder / "constant.onnx", anchors()), rename)


def finder(path: Path, height_px: int, width_px: int) -> Path:
    """Write a model that returns one box around the centre of mass of the image's red pixels."""
    constants: dict[str, NDArray[np.generic]] = {
        "only_red": np.array([1, -1, -1], np.float32).reshape(1, 3, 1, 1),
        "columns": np.arange(width_px, dtype=np.float32).reshape(1, 1, 1, -1) + 0.5,
        "rows": np.arange(height_px, dtype=np.float32).reshape(1, 1, -1, 1) + 0.5,
        "size": np.full((1, 2, 1), 32, np.float32),
        "scores": np.array([[[0], [CONFIDENCE]]], np.float32),
        "nothing_else": np.zeros((1, 6, 99), np.float32),
        "little": np.array(1e-6, np.float32),
        "all": np.array([1, 2, 3], np.int64),
        "last": np.array([3], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "only_red"], ["redness"]),
        helper.make_node("Relu", ["redness"], ["red"]),
        helper.make_node("ReduceSum", ["red", "all"], ["amount"], keepdims=1),
        helper.make_node("Add", ["amount", "little"], ["divisor"]),
        helper.make_node("Mul", ["red", "columns"], ["red_columns"]),
        helper.make_node("Mul", ["red", "rows"], ["red_rows"]),
        helper.make_node("ReduceSum", ["red_columns", "all"], ["x_sum"], keepdims=1),
        helper.make_node("ReduceSum", ["red_rows", "all"], ["y_sum"], keepdims=1),
        helper.make_node("Div", ["x_sum", "divisor"], ["x"]),
        helper.make_node("Div", ["y_sum", "divisor"], ["y"]),
        helper.make_node("Concat", ["x", "y"], ["centre4"], axis=1),
        helper.make_node("Squeeze", ["centre4", "last"], ["centre"]),
        helper.make_node("Concat", ["centre", "size", "scores"], ["found"], axis=1),
        helper.make_node("Concat", ["found", "nothing_else"], ["output0"], axis=2),
    ]
    graph = helper.make_graph(
        nodes,
        "finder",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, height_px, width_px])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, 100])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"task": "detect", "names": "['person', 'car']"})
    onnx.save(model, path)
    return path


def _finds_red_in_a_rectangle(_: str) -> str | None:
    """Check that the model's box is around the red square in images of several shapes."""
    for engine in ("openvino", "onnx"):
        with TemporaryDirectory() as folder:
            path = finder(Path(folder, "finder.onnx"), *_RECTANGLE)
            loaded = load(ModelArgs(weights=path, engine=engine, threads=1), has_gpu=False)
        if loaded.info.input_shape != _RECTANGLE:
            return f"{engine}: the input is {loaded.info.input_shape}"
        for height_px, width_px in ((384, 640), (720, 1280), (1080, 1080), (1280, 720), (100, 900)):
            picture = np.zeros((height_px, width_px, 3), np.uint8)
            x, y = int(0.7 * width_px), int(0.3 * height_px)
            half = max(height_px // 20, 4)
            picture[y - half : y + half, x - half : x + half] = (0, 0, 255)
            slot = np.empty(loaded.info.input_shape.array, np.uint8)
            fitted = letterbox(picture, slot)
            (raw,) = loaded.infer([slot])
            found = to_picture(to_detections(raw, loaded.info, DetectOptions(0.5, 0.7, 300)), fitted)
            centre = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
            if len(found) != 1 or np.abs(centre[0] - (x, y)).max() > 0.02 * max(height_px, width_px):
                return (
                    f"{engine}: in an image of {width_px}x{height_px} the box is at {centre.tolist()}, not at {(x, y)}"
                )
    return None


class _Noise(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._batches = iter([{"images": rng.random((1, 3, 64, 64), np.float32)} for _ in range(3)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def _convolved(folder: Path) -> Path:
    """Make a constant model that begins with a convolution, which can be quantised."""

    def convolve(model: onnx.ModelProto) -> None:
        kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 3)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(kernel, "kernel"))
        model.graph.node.insert(0, helper.make_node("Conv", ["images", "kernel"], ["convolved"]))
        model.graph.node[1].input[0] = "convolved"

    return rewrite(save(folder / "fp32.onnx", anchors()), convolve)


def _quantised(layout: QuantFormat | None, activations: QuantType = QuantType.QUInt8) -> Make:
    def make(folder: Path) -> Path:
        source, path = _convolved(folder), folder / "int8.onnx"
        if layout is None:
            quantize_dynamic(source, path)
        else:
            quantize_static(
                source,
                path,
                _Noise(),
                quant_format=layout,
                activation_type=activations,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv"],
            )
        return path

    return make


def _is_int8(make: Make, precision: Precision = "auto", engines: Sequence[EngineName] = CPU_ENGINES) -> Problem:
    """Return a function that checks that each engine reports int8 as the precision of the model."""

    def problem(_: str) -> str | None:
        for engine in engines:
            with TemporaryDirectory() as folder:
                args = ModelArgs(weights=make(Path(folder)), engine=engine, precision=precision, threads=1)
                said = load(args, has_gpu=False).info.precision
            if said != "int8":
                return f"{engine}: the precision is {said}, and should be int8"
        return None

    return problem


_INPUTS: dict[str, Problem] = {
    "a rectangle of 384x640": served(_onnx(1, 3, 384, 640, count=5040)),
    "a rectangle of 384x640: boxes in images of any shape": _finds_red_in_a_rectangle,
    "a portrait of 640x384": served(_onnx(1, 3, 640, 384, count=5040)),
    "a folder of 384x640": served(_folder(1, 3, 384, 640, count=5040), engines=["openvino"]),
    "a folder for a batch of four": served(_folder(4, 3, 64, 64), engines=["openvino"]),
    "a folder with all sides dynamic": served(_folder("n", 3, "h", "w", count=8400), engines=["openvino"]),
    "a batch of four": served(_onnx(4, 3, 64, 64)),
    "a batch of four in a Reshape of the graph": served(_reshaping(4)),
    "a batch of four that cannot be changed": refused(
        lambda folder: save(folder / "c.onnx", np.repeat(anchors(), 4, axis=0), sides=(4, 3, 64, 64)),
        "takes 4 images at a time.*batch=1",
    ),
    "a batch of 16, a rectangle": served(_onnx(16, 3, 64, 96, count=126)),
    "a dynamic batch": served(_onnx("batch", 3, 64, 64)),
    "batch and sides dynamic": served(_onnx("batch", 3, "height", "width", count=8400)),
    "only the sides dynamic": served(_onnx(1, 3, "height", "width", count=8400)),
    "dynamic sides, written as -1": served(_minus_one),
    "fp16": served(_onnx(1, 3, 64, 64, dtype=TensorProto.FLOAT16)),
    "8-bit numbers": refused(_onnx(1, 3, 64, 64, dtype=TensorProto.UINT8), "neither fp32 nor fp16"),
    "channels last": refused(_onnx(1, 64, 64, 3), "channels last: export it as 1x3xHxW"),
    "one channel": refused(_onnx(1, 1, 64, 64), "images of 1 channels"),
    "four channels": refused(_onnx(1, 4, 64, 64), "images of 4 channels"),
    "a side longer than any image": refused(_onnx(1, 3, 100_000, 64), "at most 8192 px"),
    "a vector": refused(_onnx(1, 3), "exactly one image input|cannot run|cannot read"),
    "an image and its size": refused(_two_inputs, "exactly one image input.*1x2"),
    "an input named frames": served(_named("frames")),
    "an input named rgb": served(_named("rgb")),
}
_ONNX_DOES_IT = "set model.engine to onnx"  # the advice in the error on CPUs on which OpenVINO cannot run the model
_QUANTISED: dict[str, Problem] = {
    "QDQ, unsigned": served(_quantised(QuantFormat.QDQ)),
    "QDQ, signed": served(_quantised(QuantFormat.QDQ, QuantType.QInt8), or_says=_ONNX_DOES_IT),
    "QOperator, unsigned": served(_quantised(QuantFormat.QOperator)),
    "QOperator, signed": served(_quantised(QuantFormat.QOperator, QuantType.QInt8), or_says=_ONNX_DOES_IT),
    "dynamic": served(_quantised(None)),
    "QDQ, unsigned: the reported precision": _is_int8(_quantised(QuantFormat.QDQ)),
    "QOperator, unsigned: the reported precision": _is_int8(_quantised(QuantFormat.QOperator)),
    "dynamic: the reported precision": _is_int8(_quantised(None)),
    "dynamic: int8 requested": _is_int8(_quantised(None), "int8", ["openvino"]),
}
CASES = (
    *(Case("inputs", member, problem) for member, problem in _INPUTS.items()),
    *(Case("INT8", member, problem) for member, problem in _QUANTISED.items()),
)

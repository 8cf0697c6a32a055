"""Tiny ONNX models with any head and any metadata. Each model returns the same output for every image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE_PX = 64  # the default side of the input
BOX = (
    8.0,
    16.0,
    40.0,
    48.0,
)  # left, top, right, bottom of the one object that every model detects, in pixels of the input
CONFIDENCE = 0.9
NAMES = "{0: 'person', 1: 'car'}"

Side = int | str  # a name stands for a dynamic side


def anchors(classes: int = 2, class_id: int = 1, count: int = 84) -> NDArray[np.float32]:
    """Return a raw head's output of shape ``(1, 4 + classes, count)`` for one object: centre, size and scores."""
    output = np.zeros((1, 4 + classes, count), np.float32)
    output[0, :4, 0] = _centre_and_size()
    output[0, 4 + class_id, 0] = CONFIDENCE
    return output


def rows(class_id: float = 1, count: int = 300, box: ArrayLike = BOX) -> NDArray[np.float32]:
    """Return an end-to-end head's output of shape ``(1, count, 6)`` for one object."""
    output = np.zeros((1, count, 6), np.float32)
    output[0, 0] = (*np.asarray(box, np.float32), CONFIDENCE, class_id)
    return output


def objectness(classes: int = 2, class_id: int = 1, count: int = 3 * 84) -> NDArray[np.float32]:
    """Return a YOLOv5 head's output of shape ``(1, count, 5 + classes)`` for one object.

    The object's objectness times its class score is 0.9.
    """
    output = np.zeros((1, count, 5 + classes), np.float32)
    output[0, 7, :4] = _centre_and_size()
    output[0, 7, 4], output[0, 7, 5 + class_id] = 0.96, CONFIDENCE / 0.96
    return output


def save(
    path: Path,
    *outputs: NDArray[np.float32],
    names: str | None = NAMES,
    metadata: Mapping[str, str] | None = None,
    sides: Sequence[Side] = (1, 3, SIDE_PX, SIDE_PX),
    dtype: int = TensorProto.FLOAT,
    opset: int = 17,
) -> Path:
    """Write a model with these outputs to ``path``, and return the path.

    ``sides`` is the shape of the input, beginning with the batch size. ``names`` is the text of the metadata's entry
    with the class names. If ``names`` is None, the entry is left out.
    """
    number = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=number),
        helper.make_node("ReduceMean", ["values"], ["means"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["means", "zero"], ["nothing"]),
    ]
    constants: dict[str, NDArray[np.generic]] = {"zero": np.array(0, np.float32)}
    results = []
    for place, output in enumerate(outputs):
        axes = np.arange(1, output.ndim, dtype=np.int64)
        constants |= {f"answer{place}": output, f"axes{place}": axes}
        nodes += [
            helper.make_node("Unsqueeze", ["nothing", f"axes{place}"], [f"nothing{place}"]),
            helper.make_node("Add", [f"answer{place}", f"nothing{place}"], [f"output{place}"]),
        ]
        shape = [sides[0] if output.shape[0] == 1 and len(sides) else output.shape[0], *output.shape[1:]]
        results.append(helper.make_tensor_value_info(f"output{place}", TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", dtype, list(sides))],
        results,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    described = {"task": "detect"} | ({} if names is None else {"names": names}) | dict(metadata or {})
    helper.set_model_props(model, {key: value for key, value in described.items() if value})
    onnx.save(model, path)
    return path


def rewrite(path: Path, how: Callable[[onnx.ModelProto], None]) -> Path:
    """Apply ``how`` to the model in an ONNX file, and return the file's path."""
    model = onnx.load(path)
    how(model)
    onnx.save(model, path)
    return path


def save_integers(path: Path, dtype: int) -> Path:
    """Write a model with integer output, like a quantised model whose last DequantizeLinear is missing."""

    def cast(model: onnx.ModelProto) -> None:
        (output,) = model.graph.output
        model.graph.node.append(helper.make_node("Cast", [output.name], ["whole"], to=dtype))
        output.name, output.type.tensor_type.elem_type = "whole", dtype

    return rewrite(save(path, anchors()), cast)


def save_folder(
    folder: Path, *outputs: NDArray[np.float32], metadata: str, sides: Sequence[Side] = (1, 3, SIDE_PX, SIDE_PX)
) -> Path:
    """Write a model as an OpenVINO folder whose ``metadata.yaml`` contains ``metadata``, and return the folder."""
    folder.mkdir(parents=True)
    source = save(folder / "constant.onnx", *outputs, sides=sides)
    ov.save_model(ov.Core().read_model(source), folder / "constant.xml", compress_to_fp16=False)
    source.unlink()
    (folder / "metadata.yaml").write_text(metadata, encoding="utf-8")
    return folder


def _centre_and_size() -> tuple[float, float, float, float]:
    left, top, right, bottom = BOX
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top

"""ONNX Runtime, for CPUs and GPUs that the other engines do not know: reads an ``.onnx`` file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serve_app.errors import ModelError
from serve_app.models.engines.metadata import has_end_to_end_head, read_labels
from serve_app.types import EngineInfo, InputShape, Pixels, Precision

_FRAMES = "frames"


class OnnxEngine:
    """One batch, one run; a file that was exported for one picture takes them one by one.

    It computes in the file's own precision. A model whose input size is open is fixed at ``input_shape``.
    Raises ModelError.
    """

    concurrency = 1

    def __init__(
        self, path: Path, *, name: str, version: str, input_shape: InputShape, threads: int, on_gpu: bool
    ) -> None:
        try:
            model = onnx.load(path)
            input_shape = _uint8_in(model, input_shape)
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            providers = ["CUDAExecutionProvider"] if on_gpu else []
            providers.append("CPUExecutionProvider")
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
        except ModelError:
            raise
        except Exception as exc:  # protobuf's errors and ONNX Runtime's have no common base
            raise ModelError(
                f"ONNX Runtime cannot read {path.name}: it is damaged, or a part of it is missing"
            ) from exc
        if on_gpu and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise ModelError("Ray gave this Detector a GPU, but ONNX Runtime cannot use it: install onnxruntime-gpu")
        labels = read_labels(self._session.get_modelmeta().custom_metadata_map)
        self.takes_batches = not isinstance(self._session.get_inputs()[0].shape[0], int)
        (blank,) = self.infer([np.zeros(input_shape.array, np.uint8)])  # a file may leave its output's shape open
        self.info = EngineInfo(
            name=name,
            version=version,
            engine="onnx",
            precision=_precision(model),
            labels=labels,
            input_shape=input_shape,
            end_to_end=has_end_to_end_head([1, *blank.shape], labels),
        )

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[NDArray[np.float32]]:
        """See ``Engine``."""
        batches = [np.stack(frames)] if self.takes_batches else [frame[None] for frame in frames]
        outputs = [self._session.run(None, {_FRAMES: batch})[0] for batch in batches]
        return [raw.astype(np.float32, copy=False) for output in outputs for raw in output]


def _uint8_in(model: onnx.ModelProto, wanted: InputShape) -> InputShape:
    """Put colour order, scaling and layout into the graph, which then takes slots as they lie in memory.

    Return the shape of the input: the file's, or ``wanted`` if the file leaves it open.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise ModelError("the model must have exactly one image input")
    (old,) = inputs
    sides = [dim.dim_value or None for dim in old.type.tensor_type.shape.dim]
    batch, channels, height, width = sides[0], sides[1] or 3, sides[2] or wanted.height_px, sides[3] or wanted.width_px
    if batch not in (None, 1) or channels != 3 or height != width:
        raise ModelError(f"the model's input is {batch}x{channels}x{height}x{width}; export it as 1x3xNxN")
    half = old.type.tensor_type.elem_type == TensorProto.FLOAT16
    new = helper.make_tensor_value_info(_FRAMES, TensorProto.UINT8, [batch or "batch", height, width, 3])
    graph.input.remove(old)
    graph.input.insert(0, new)
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "rgb_of_bgr"))
    scale = np.array(1 / 255, np.float16 if half else np.float32)
    graph.initializer.append(numpy_helper.from_array(scale, "one_255th"))
    steps = [
        helper.make_node("Gather", [_FRAMES, "rgb_of_bgr"], ["rgb"], axis=3),
        helper.make_node("Transpose", ["rgb"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["numbers"], to=TensorProto.FLOAT16 if half else TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "one_255th"], [old.name]),
    ]
    for place, step in enumerate(steps):
        graph.node.insert(place, step)
    return InputShape(int(height), int(width))


def _precision(model: onnx.ModelProto) -> Precision:
    if any(node.op_type in ("DequantizeLinear", "QLinearConv", "ConvInteger") for node in model.graph.node):
        return "int8"
    kernels = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    return "fp16" if TensorProto.FLOAT16 in kernels else "fp32"

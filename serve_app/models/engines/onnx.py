"""The ONNX Runtime engine, for CPUs and GPUs that the other engines do not support. It reads an ``.onnx`` file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from serve_app.errors import ModelError
from serve_app.models.engines import ModelFile, RawOutput
from serve_app.models.engines.inputs import allowed_rectangles, fixed_batch_error, input_shape
from serve_app.models.engines.metadata import (
    has_built_in_nms,
    is_end_to_end,
    read_input_shape,
    read_metadata,
    read_stride,
)
from serve_app.models.engines.precision import precision_of
from serve_app.models.failures import out_of_memory, reason
from serve_app.models.heads import integer_output_error, recognise, to_rows
from serve_app.types import EngineInfo, InputShape, Pixels, Precision

_FRAMES = "sightline.frames"  # the prefix keeps this name different from the names in the file
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


class OnnxEngine:
    """Engine that runs a batch in one call, or image by image when the file has a fixed batch size.

    It computes in the precision of the file. A dynamic input size is set to ``file.input_shape``, or with rectangles to
    one of several shapes. Raise ModelError when the model cannot be read or run.
    """

    concurrency = 1
    preparation = None

    def __init__(self, file: ModelFile, *, threads: int, on_gpu: bool) -> None:
        model = _read(file.path)
        properties = {one.key: one.value for one in model.metadata_props}
        metadata = read_metadata(properties)
        is_rectangular = file.rectangular and metadata.takes_rectangles
        wanted = read_input_shape(properties, file.input_shape)
        sides, shape = _accept_uint8(model, wanted, rectangular=is_rectangular)
        batch = sides[0]
        operations = {node.op_type for node in model.graph.node}
        self.takes_batches = batch is None
        self._outputs = [output.name for output in model.graph.output[: metadata.outputs]]
        try:
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            # We log errors only, because a changed batch size causes many warnings.
            options.log_severity_level = 3
            providers = ["CUDAExecutionProvider"] if on_gpu else []
            providers.append("CPUExecutionProvider")
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
            blank = self._session.run(None, {_FRAMES: np.zeros((1, *shape.array), np.uint8)})
        except Exception as exc:  # ONNX Runtime's errors have no common base class
            if batch not in (None, 1):
                raise fixed_batch_error(batch) from exc
            if known := re.search(r"Current official support for domain \S+ is till opset (\d+)", str(exc)):
                raise ModelError(
                    f"ONNX Runtime cannot run {file.path.name}: export it with opset={known[1]} or less"
                ) from exc
            cannot = ModelError(f"ONNX Runtime cannot run {file.path.name}: {reason(exc)}")
            raise out_of_memory(exc) or cannot from exc
        if on_gpu and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise ModelError("Ray gave this Detector a GPU, but ONNX Runtime cannot use it: install onnxruntime-gpu")
        outputs = [list(output.shape) for output in blank]
        if batch not in (None, 1) and outputs[0][0] != 1:
            raise fixed_batch_error(batch)
        head = recognise(outputs, metadata, shape, is_end_to_end=is_end_to_end(properties))
        if any(output.dtype.kind != "f" for output in blank[: metadata.outputs]):
            raise integer_output_error()
        self._has_objectness = head == "objectness"
        self.info = EngineInfo(
            name=file.name,
            version=file.version,
            engine="onnx",
            precision=_precision(model),
            labels=metadata.labels,
            input_shape=shape,
            end_to_end=head == "rows",
            has_built_in_nms=head == "rows" and has_built_in_nms(properties, operations),
            rectangles=allowed_rectangles(sides, shape, read_stride(properties)) if is_rectangular else (),
            task=metadata.task,
            keypoints=metadata.keypoints,
            numbers_per_keypoint=metadata.numbers_per_keypoint,
        )

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[RawOutput]:
        """Run the model on frames: see ``Engine``."""
        batches = [np.stack(frames)] if self.takes_batches else [frame[None] for frame in frames]
        outputs = [self._session.run(self._outputs, {_FRAMES: batch}) for batch in batches]
        raw = [
            tuple(array.astype(np.float32, copy=False) for array in one)
            for batch in outputs
            for one in zip(*batch, strict=True)
        ]
        return [(to_rows(one[0]),) for one in raw] if self._has_objectness else raw


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:  # protobuf's errors have no common base class
        raise ModelError(
            f"ONNX Runtime cannot read {path.name}: it is damaged, or not an ONNX file; copy or export it again"
        ) from exc
    if not model.graph.node:
        raise ModelError(
            f"ONNX Runtime cannot read {path.name}: it is damaged, or a part of it is missing; copy or export it again"
        )
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as exc:
        raise ModelError(
            f"ONNX Runtime cannot read {path.name}: the external file with its weights is missing or incomplete; keep "
            "both files in one folder"
        ) from exc
    return model


def _accept_uint8(
    model: onnx.ModelProto, wanted: InputShape, *, rectangular: bool
) -> tuple[list[int | None], InputShape]:
    """Add the conversion of colour order, scale and layout to the graph, so that frames need no converted copy.

    Return the sizes of the input in the file (None for a dynamic size), and its shape, where ``wanted`` replaces
    dynamic sides. Dynamic sides stay dynamic if ``rectangular`` is set. A fixed batch size is changed to 1. Raise
    ModelError for inputs that are not supported.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    types = [one.type.tensor_type for one in inputs]
    # Older exporters write -1 for a dynamic side.
    sides = [[dim.dim_value if dim.dim_value > 0 else None for dim in one.shape.dim] for one in types]
    shape = input_shape(sides, all(one.elem_type in _FLOATS for one in types), wanted)
    (old,) = inputs
    batch = sides[0][0]
    if batch is not None and batch > 1:
        _keep_any_batch(model, batch)
        del graph.value_info[:]
        for output in graph.output:
            # The output's shape contains the old batch size, like the shapes in value_info. So we remove the output's
            # shape, too.
            output.type.tensor_type.ClearField("shape")
    half = old.type.tensor_type.elem_type == TensorProto.FLOAT16
    height, width = (side or name for side, name in zip(sides[0][2:], ("height", "width"), strict=True))
    size = (height, width) if rectangular else shape
    new = helper.make_tensor_value_info(_FRAMES, TensorProto.UINT8, [1 if batch else "batch", *size, 3])
    graph.input.remove(old)
    graph.input.insert(0, new)
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "sightline.rgb_of_bgr"))
    scale = np.array(1 / 255, np.float16 if half else np.float32)
    graph.initializer.append(numpy_helper.from_array(scale, "sightline.one_255th"))
    steps = [
        helper.make_node("Gather", [_FRAMES, "sightline.rgb_of_bgr"], ["sightline.rgb"], axis=3),
        helper.make_node("Transpose", ["sightline.rgb"], ["sightline.planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Cast", ["sightline.planes"], ["sightline.numbers"], to=TensorProto.FLOAT16 if half else TensorProto.FLOAT
        ),
        helper.make_node("Mul", ["sightline.numbers", "sightline.one_255th"], [old.name]),
    ]
    for index, step in enumerate(steps):
        graph.node.insert(index, step)
    return sides[0], shape


def _keep_any_batch(model: onnx.ModelProto, batch: int) -> None:
    """Make each Reshape keep the first side of its input instead of setting this side to the old batch size."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {one.name: one.type.tensor_type.shape.dim for one in (*graph.input, *graph.value_info)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants or not shapes.get(node.input[0]):
            continue
        sides = numpy_helper.to_array(constants[node.input[1]]).copy()
        if sides.size and sides[0] == batch == shapes[node.input[0]][0].dim_value:
            sides[0] = 0  # 0 keeps the side: https://onnx.ai/onnx/operators/onnx__Reshape.html
            name = f"sightline.{node.input[1]}"
            if name not in {tensor.name for tensor in model.graph.initializer}:
                model.graph.initializer.append(numpy_helper.from_array(sides, name))
            node.input[1] = name


def _precision(model: onnx.ModelProto) -> Precision:
    constants = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    kernels = {helper.tensor_dtype_to_np_dtype(tensor.data_type).name for tensor in constants}
    return precision_of({node.op_type for node in model.graph.node}, kernels)

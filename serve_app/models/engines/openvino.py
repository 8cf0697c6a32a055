"""The OpenVINO engine for CPUs. It reads an exported folder or an ``.onnx`` file."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import yaml
from openvino.preprocess import ColorFormat, PrePostProcessor

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
from serve_app.models.engines.preparation import Preparation
from serve_app.models.failures import out_of_memory, reason
from serve_app.models.heads import integer_output_error, recognise, to_rows
from serve_app.types import EngineInfo, InputShape, Json, Pixels, Precision

_VERSION = str(ov.__version__).partition("-")[0]
_NUMPY_NAMES = {"f32": "float32", "f16": "float16", "i8": "int8", "u8": "uint8"}
_NOT_UTF8 = "\ufffd"
_FLOATS = (ov.Type.f32, ov.Type.f16, ov.Type.bf16, ov.Type.f64)


class OpenVinoEngine:
    """Engine that runs one image per OpenVINO request, and reads the image in place from shared memory.

    The model is compiled twice for each shape. One copy uses all threads for a single image. The other copy runs
    several images at once, in as many OpenVINO streams as OpenVINO recommends for the machine. Streams are slower for
    one image and faster for many images.

    A rectangle is compiled when it is first needed, because each copy takes memory for its own weights. Each shape is
    fixed in its copies: a copy that takes any shape is slower, and far slower in bf16.

    ``file``: an exported OpenVINO folder, or an ``.onnx`` file. A dynamic input size is set to ``file.input_shape``, or
    with rectangles to one of several shapes. A fixed batch size is changed to 1. Raise ModelError when the model cannot
    be read or run.
    """

    takes_batches = False

    def __init__(self, file: ModelFile, *, precision: Precision, threads: int) -> None:
        self._core = core = ov.Core()
        # Rectangles are compiled later, when the file may have been replaced. So the weights are read, and not mapped.
        core.set_property({"ENABLE_MMAP": False})
        model, properties = _read(core, file.path)
        metadata = read_metadata(properties)
        sides, shape = _fix_shape(model, read_input_shape(properties, file.input_shape))
        batch = sides[0] or 1
        operations = {operation.get_type_name() for operation in model.get_ops()}
        is_int8 = precision_of(operations, _kernels(model)) == "int8"
        precision = _choose_precision(precision, is_quantised=is_int8, has_bf16=_has_bf16(core))
        answers_floats = all(output.element_type in _FLOATS for output in model.outputs[: metadata.outputs])
        # By default, OpenVINO binds each thread to a core. Threads of two copies could then share a core while another
        # core is idle, because each copy chooses the cores of its threads without regard to other copies.
        self._options: Json = {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        # Only a model with FakeQuantize computes in int8. Dynamic quantisation adds int8 weights, but computes in fp32.
        if "FakeQuantize" not in operations:
            self._options["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bf16" else "f32"
        self._compiled: dict[_Variant, ov.CompiledModel] = {}
        self.preparation = Preparation()
        self._requests = _Requests()
        self._outputs = metadata.outputs
        self._has_objectness = False
        try:
            self._model = _accept_uint8(model, min(metadata.outputs, len(model.outputs)))
            for_many = self._copy(_Variant(shape, for_one=False))
            self.concurrency = int(for_many.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            outputs = self._output_shapes(shape)
        except RuntimeError as exc:
            raise out_of_memory(exc) or _cannot_run(file.path, batch, precision, exc) from exc
        if batch > 1 and outputs[0][0] != 1:
            raise fixed_batch_error(batch)
        head = recognise(outputs, metadata, shape, is_end_to_end=is_end_to_end(properties))
        if not answers_floats:
            raise integer_output_error()
        self._has_objectness = head == "objectness"
        is_rectangular = file.rectangular and metadata.takes_rectangles
        self.info = EngineInfo(
            name=file.name,
            version=file.version,
            engine="openvino",
            precision=precision,
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
        shape = InputShape(*frames[0].shape[:2])
        variant = _Variant(shape, for_one=alone and self.concurrency > 1)
        requests = self._requests.of.setdefault(variant, [])
        while len(requests) < len(frames):
            requests.append(self._copy(variant).create_infer_request())
        requests = requests[: len(frames)]
        # OpenVINO shares memory only with writable arrays and keeps no reference to them. So we copy read-only frames,
        # and keep all arrays alive until every request is done.
        shared = [frame if frame.flags.writeable else frame.copy() for frame in frames]
        for request, frame in zip(requests, shared, strict=True):
            request.set_input_tensor(ov.Tensor(frame[None], shared_memory=True))
            request.start_async()
        for request in requests:
            request.wait()
        raw = [
            tuple(request.get_output_tensor(number).data[0] for number in range(self._outputs)) for request in requests
        ]
        return [(to_rows(one[0]),) for one in raw] if self._has_objectness else raw

    def free_rectangles(self) -> None:
        """Free the memory of all rectangles. No other call may run meanwhile. They are compiled again when needed."""
        self._requests = _Requests()
        self._compiled = {key: copy for key, copy in self._compiled.items() if key.shape == self.info.input_shape}

    def _copy(self, variant: _Variant) -> ov.CompiledModel:
        """Return a compiled copy of the model. Compile it at the first call."""
        if variant not in self._compiled:
            with self.preparation:  # only one thread compiles a copy, and the others wait for it
                if variant not in self._compiled:
                    model = self._model.clone()
                    model.reshape([1, *variant.shape.array])
                    options = self._options | {"PERFORMANCE_HINT": "LATENCY" if variant.for_one else "THROUGHPUT"}
                    self._compiled[variant] = self._core.compile_model(model, "CPU", options)
        return self._compiled[variant]

    def _output_shapes(self, shape: InputShape) -> list[list[int]]:
        """Run the model once, and return the shapes of its outputs. In some files, these shapes are dynamic."""
        request = self._copy(_Variant(shape, for_one=False)).create_infer_request()
        request.infer(np.zeros((1, *shape.array), np.uint8))
        return [list(tensor.shape) for tensor in request.output_tensors]


class _Variant(NamedTuple):
    """The shape and the use for which a copy of the model is compiled."""

    shape: InputShape
    for_one: bool  # it uses all threads for a single image


class _Requests(threading.local):
    """The infer requests of each thread."""

    def __init__(self) -> None:
        self.of: dict[_Variant, list[ov.InferRequest]] = {}


def _read(core: ov.Core, path: Path) -> tuple[ov.Model, Json]:
    """Return the network and its metadata, which Ultralytics' export writes into the file or next to it."""
    if path.is_dir():
        found = path.iterdir()  # unlike glob(), it raises an OSError when the folder cannot be read
        # macOS stores attributes of a file in a second file with the prefix "._" on some disks and in archives.
        networks = sorted(one for one in found if one.suffix == ".xml" and not one.name.startswith("._"))
        if len(networks) != 1:
            raise ModelError(
                f"model.weights: an OpenVINO folder must have exactly one .xml file, but {path} has {len(networks)}"
            )
        (network,) = networks
        if not network.with_suffix(".bin").is_file():
            raise ModelError(
                f"OpenVINO cannot read {network.name}: {network.stem}.bin, the file with its weights, is missing from "
                "the folder"
            )
        # The export script of YOLOv5 names the metadata after the model.
        candidates = [path / "metadata.yaml", network.with_suffix(".yaml")]
        metadata = next((candidate for candidate in candidates if candidate.is_file()), None)
        if metadata is None:
            raise ModelError(f"model.weights: there is no metadata.yaml in {path}: export the model with Ultralytics")
        return _read_network(core, network), _read_metadata(metadata)
    model = _read_network(core, path)
    info = model.get_rt_info()
    return model, {key: _text(value) for key, value in info["framework"].items()} if "framework" in info else {}


def _text(value: ov.OVAny) -> Any:
    """Return one value of an ONNX file's metadata, or ``_NOT_UTF8`` if the value is not valid UTF-8.

    Labels must be valid UTF-8.
    """
    try:
        return value.value
    except UnicodeDecodeError:
        return _NOT_UTF8


def _read_network(core: ov.Core, path: Path) -> ov.Model:
    try:
        return core.read_model(path)
    except RuntimeError as exc:
        if unknown := re.search(r"No conversion rule found for operations: (.+)", str(exc)):
            raise ModelError(
                f"OpenVINO cannot run {path.name}, because OpenVINO lacks the operation {unknown[1]}; ONNX "
                "Runtime may have this operation: set model.engine to onnx"
            ) from exc
        if external := re.search(r"stored data in file \(([^,)]+)", str(exc)):
            raise ModelError(
                f"OpenVINO cannot read {path.name}: {external[1]}, the file with its weights, is missing or "
                "incomplete; keep both files in one folder"
            ) from exc
        if newer := re.search(r"(?:unsupported opset|operation with type): (\S+)", str(exc)):
            raise ModelError(
                f"OpenVINO cannot read {path.name}, because the installed version is {_VERSION}, which has no "
                f"{newer[1]}: export the model with this version of OpenVINO or an older one"
            ) from exc
        raise ModelError(
            f"OpenVINO cannot read {path.name}: it is damaged, or a part of it is missing; copy or export it again"
        ) from exc


def _cannot_run(path: Path, batch: int, precision: Precision, error: RuntimeError) -> ModelError:
    """Return the error for a model that OpenVINO can read but cannot compile or run."""
    if batch > 1:
        return fixed_batch_error(batch)
    another = "; ONNX Runtime may run it: set model.engine to onnx" if path.suffix == ".onnx" else ": export it again"
    return ModelError(f"OpenVINO cannot run {path.name} in {precision} on this CPU{another} ({reason(error)})")


def _read_metadata(path: Path) -> Json:
    try:
        # Scalars stay text, as in ONNX files, because a loader that converts scalars would turn the label ``no`` into
        # ``False``.
        metadata = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as exc:
        raise ModelError(f"{path} cannot be read: export the model with Ultralytics") from exc
    if not isinstance(metadata, dict):
        raise ModelError(f"{path} contains no model metadata: export the model with Ultralytics")
    return metadata


def _fix_shape(model: ov.Model, wanted: InputShape) -> tuple[list[int | None], InputShape]:
    """Set the batch size to 1 and dynamic sides to ``wanted``.

    Return the sizes of the input in the file (None for a dynamic size), and the input shape. Raise ModelError when the
    input is not supported or cannot be changed.
    """
    inputs = [list(one.partial_shape) if one.partial_shape.rank.is_static else [] for one in model.inputs]
    sides = [[None if side.is_dynamic else side.get_length() for side in one] for one in inputs]
    is_float = all(one.element_type in _FLOATS for one in model.inputs)
    shape = input_shape(sides, is_float, wanted)
    batch = sides[0][0] or 1
    if sides[0] != [1, 3, *shape]:
        try:
            if batch > 1:
                _keep_any_batch(model, batch)
            model.reshape([1, 3, *shape])
        except RuntimeError as exc:
            if batch > 1:
                raise fixed_batch_error(batch) from exc
            raise ModelError(
                f"model.image_size_px: the model does not take an input of {shape}; set the size that it takes, or "
                "export it again"
            ) from exc
    return sides[0], shape


def _keep_any_batch(model: ov.Model, batch: int) -> None:
    """Make each Reshape keep the first side of its input instead of setting this side to the old batch size."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() != "Reshape" or not operation.get_attributes()["special_zero"]:
            continue
        given, target = operation.input_value(0).partial_shape, operation.input_value(1).get_node()
        if target.get_type_name() != "Constant" or not given.rank.is_static or not len(given) or given[0] != batch:
            continue
        sides = target.data.copy()
        if sides.size and sides[0] == batch:
            sides[0] = 0  # 0 keeps the side: https://docs.openvino.ai, operation Reshape-1, special_zero
            operation.input(1).replace_source_output(ov.op.Constant(sides).output(0))


def _accept_uint8(model: ov.Model, outputs: int) -> ov.Model:
    """Add the conversion of colour order, scale and layout to the model, so that frames need no converted copy.

    The first ``outputs`` outputs are converted to fp32.
    """
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().tensor().set_color_format(ColorFormat.BGR)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
    for number in range(outputs):
        steps.output(number).tensor().set_element_type(ov.Type.f32)
    return steps.build()


def _choose_precision(wanted: Precision, *, is_quantised: bool, has_bf16: bool) -> Precision:
    """Return int8 for a quantised file, else the wanted precision.

    ``auto`` means fp32, because bf16, which OpenVINO would choose on a CPU with AMX, changes the boxes of some
    models. Raise ModelError when the file or the CPU does not support the wanted precision.
    """
    if is_quantised and wanted not in ("auto", "int8"):
        raise ModelError(f"model.precision: the model is quantised to int8 and cannot run in {wanted}; set it to auto")
    if is_quantised:
        return "int8"
    if wanted == "int8":
        raise ModelError(
            "model.precision: int8 needs a .pt file, which is calibrated with the images in model.calibration_dir"
        )
    if wanted == "bf16" and not has_bf16:
        raise ModelError("model.precision: this CPU does not support bf16; set it to auto or fp32")
    return "fp32" if wanted == "auto" else wanted


def _has_bf16(core: ov.Core) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _kernels(model: ov.Model) -> set[str]:
    """Return the number types of the four-dimensional constants.

    Types that NumPy also has are given by their NumPy names, and other types by their OpenVINO names.
    """
    constants = [one.output(0) for one in model.get_ops() if one.get_type_name() == "Constant"]
    kernels = {one.element_type.get_type_name() for one in constants if len(one.shape) == 4}
    return {_NUMPY_NAMES.get(name, name) for name in kernels}

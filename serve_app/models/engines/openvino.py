"""OpenVINO, the engine on a CPU: reads an exported folder or an ``.onnx`` file."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import yaml
from numpy.typing import NDArray
from openvino.preprocess import ColorFormat, PrePostProcessor

from serve_app.errors import ModelError
from serve_app.models.engines.metadata import has_end_to_end_head, read_labels
from serve_app.types import EngineInfo, InputShape, Json, Pixels, Precision


class OpenVinoEngine:
    """One picture a request, read in place in its slot.

    The model is compiled twice: for pictures that come one by one, with all threads on each, and for several at once,
    with as many streams as OpenVINO finds best for the machine, which take longer for one and less for all.

    ``path``: an exported OpenVINO folder, or an ``.onnx`` file. A model whose input size is open is fixed at
    ``input_shape``. Raises ModelError.
    """

    takes_batches = False

    def __init__(
        self, path: Path, *, name: str, version: str, input_shape: InputShape, precision: Precision, threads: int
    ) -> None:
        core = ov.Core()
        model, metadata = _read(core, path)
        input_shape = _fix_shape(model, input_shape)
        labels = read_labels(metadata)
        precision = _choose(precision, is_quantised=_is_quantised(model), has_bf16=_has_bf16(core))
        self.info = EngineInfo(
            name=name,
            version=version,
            engine="openvino",
            precision=precision,
            labels=labels,
            input_shape=input_shape,
            end_to_end=has_end_to_end_head(list(model.outputs[0].partial_shape), labels),
        )
        options: Json = {"INFERENCE_NUM_THREADS": threads}
        if precision != "int8":
            options["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
        model = _uint8_in(model)
        self._for_many = core.compile_model(model, "CPU", options | {"PERFORMANCE_HINT": "THROUGHPUT"})
        self.concurrency = int(self._for_many.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._for_one = self._for_many
        if self.concurrency > 1:
            self._for_one = core.compile_model(model, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
        self._requests = threading.local()  # a thread's own, by compiled model

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[NDArray[np.float32]]:
        """See ``Engine``."""
        compiled, name = (self._for_one, "one") if alone else (self._for_many, "many")
        requests = self._requests.__dict__.setdefault(name, [])
        while len(requests) < len(frames):
            requests.append(compiled.create_infer_request())
        requests = requests[: len(frames)]
        # OpenVINO shares only what it may write, and keeps no array alive: these live until every request is done.
        shared = [frame if frame.flags.writeable else frame.copy() for frame in frames]
        for request, frame in zip(requests, shared, strict=True):
            request.set_input_tensor(ov.Tensor(frame[None], shared_memory=True))
            request.start_async()
        for request in requests:
            request.wait()
        return [request.get_output_tensor(0).data[0] for request in requests]


def _read(core: ov.Core, path: Path) -> tuple[ov.Model, Json]:
    """The network and the metadata that Ultralytics' export wrote beside or into it."""
    if path.is_dir():
        networks = sorted(path.glob("*.xml"))
        if len(networks) != 1:
            raise ModelError(f"an OpenVINO folder holds one .xml file, this one {len(networks)}: {path}")
        metadata = path / "metadata.yaml"
        if not metadata.is_file():
            raise ModelError(f"no metadata.yaml in {path}: export the model with Ultralytics")
        return _read_network(core, networks[0]), _read_metadata(metadata)
    model = _read_network(core, path)
    info = model.get_rt_info()
    return model, {key: value.value for key, value in info["framework"].items()} if "framework" in info else {}


def _read_network(core: ov.Core, path: Path) -> ov.Model:
    try:
        return core.read_model(path)
    except RuntimeError as exc:
        raise ModelError(f"OpenVINO cannot read {path.name}: it is damaged, or a part of it is missing") from exc


def _read_metadata(path: Path) -> Json:
    try:
        metadata = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError, OSError) as exc:
        raise ModelError(f"{path} cannot be read") from exc
    if not isinstance(metadata, dict):
        raise ModelError(f"{path} is no metadata of an exported model")
    return metadata


def _fix_shape(model: ov.Model, wanted: InputShape) -> InputShape:
    """Return the shape of the input, which becomes ``wanted`` if the file leaves it open. Raises ModelError."""
    if len(model.inputs) != 1 or len(model.inputs[0].partial_shape) != 4:
        raise ModelError("the model must have exactly one image input")
    shape = model.inputs[0].partial_shape
    if shape.is_dynamic:
        sides = zip(list(shape)[2:], wanted, strict=True)
        model.reshape([1, 3, *(side_px if side.is_dynamic else side.get_length() for side, side_px in sides)])
        shape = model.inputs[0].partial_shape
    batch, channels, height, width = shape.to_shape()
    if (batch, channels) != (1, 3) or height != width:
        raise ModelError(f"the model's input is {batch}x{channels}x{height}x{width}; export it as 1x3xNxN")
    return InputShape(int(height), int(width))


def _uint8_in(model: ov.Model) -> ov.Model:
    """The model with colour order, scaling and layout in its graph: it takes a slot as it lies in memory."""
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().tensor().set_color_format(ColorFormat.BGR)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
    steps.output(0).tensor().set_element_type(ov.Type.f32)
    return steps.build()


def _choose(wanted: Precision, *, is_quantised: bool, has_bf16: bool) -> Precision:
    """What the file is in, or the wanted one. Raises ModelError.

    A CPU with AMX would choose bf16, with which some models' boxes stay what they are and others' do not.
    """
    if is_quantised and wanted not in ("auto", "int8"):
        raise ModelError(f"this model was quantised to int8 and cannot be computed in {wanted}")
    if is_quantised:
        return "int8"
    if wanted == "int8":
        raise ModelError("int8 is made of a .pt file, fitted to the pictures in model.calibration_dir")
    if wanted == "bf16" and not has_bf16:
        raise ModelError("this CPU does not compute in bf16")
    return "fp32" if wanted == "auto" else wanted


def _has_bf16(core: ov.Core) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _is_quantised(model: ov.Model) -> bool:
    return any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())

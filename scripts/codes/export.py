"""Convert a trained checkpoint to the two weight files in the package, and store the weights in half precision."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")  # must be set before ultralytics is imported

import numpy as np
import onnx
from onnx import helper, numpy_helper
from safetensors.torch import save
from ultralytics import YOLO

from scripts.codes.symbols import LABELS

_KEPT_METADATA = ("task", "names", "stride")  # Ultralytics also adds the date and paths, which differ in every export


def write_weights(checkpoint: Path, folder: Path) -> None:
    """Write ``codes.onnx`` for the engines that read ONNX, and ``codes.safetensors`` for the torch engine."""
    folder.mkdir(parents=True, exist_ok=True)
    network = YOLO(checkpoint).model
    metadata = {"architecture": json.dumps(network.yaml), "names": json.dumps(LABELS)}
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()
    }
    (folder / "codes.safetensors").write_bytes(save(weights, metadata))
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch) / "codes.pt"
        link.symlink_to(checkpoint.resolve())
        exported = YOLO(link).export(format="onnx", dynamic=True, simplify=False, verbose=False)
        model = onnx.load(exported)
    _halve(model.graph)
    for entry in [entry for entry in model.metadata_props if entry.key not in _KEPT_METADATA]:
        model.metadata_props.remove(entry)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "codes.onnx")


def _halve(graph: onnx.GraphProto) -> None:
    """Store large float32 constants as float16 to halve the size of the file. The model casts them back to float32."""
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 32:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(casts + nodes)

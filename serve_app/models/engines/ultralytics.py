"""Ultralytics reads and exports checkpoints for us. It never installs, downloads or reports anything here."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Read when ultralytics is imported, hence before it: no package is installed and no host is called on its own.
os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_VERBOSE="false")

from safetensors import safe_open
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

from serve_app.errors import ModelError
from serve_app.models.engines.metadata import read_labels
from serve_app.types import Json

_LAYERS = {"Conv", "C3k2", "SPPF", "C2PSA", "nn.Upsample", "Concat", "Detect"}  # of YOLO11


def load_network(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The network (a torch module) and its labels, from ``.pt`` or ``.safetensors``. Raises ModelError.

    A ``.pt`` file is a pickle: loading one runs what its author put into it. A ``.safetensors`` file holds numbers,
    and in its metadata, as JSON, the ``architecture`` in Ultralytics' words and the ``names`` of the classes.
    """
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    yolo = _open(path)
    labels = read_labels({"names": yolo.names})
    if hasattr(yolo.model, "end2end"):
        yolo.model.end2end = False  # as Ultralytics predicts and exports; a model with one head keeps that one
    return yolo.model.float(), labels


def _load_safetensors(path: Path) -> tuple[Any, tuple[str, ...]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        names, architecture = json.loads(metadata["names"]), json.loads(metadata["architecture"])
        # Ultralytics evaluates the one as Python and calls the other by its name: a file must not bring code.
        layers = {layer for _, _, layer, _ in architecture["backbone"] + architecture["head"]}
        if "activation" in architecture or not layers <= _LAYERS:
            raise ValueError("more than layers of YOLO11")
        network = DetectionModel(architecture, verbose=False)
        network.load_state_dict(weights)
    except Exception as exc:  # what a wrong description makes of Ultralytics' parser may be anything
        raise ModelError(f"{path.name} is damaged or describes no YOLO model") from exc
    return network.float(), tuple(str(name) for name in names)


def export(path: Path, *, format: str, input_shape: Sequence[int], quantize: int = 32, max_batch_size: int = 1) -> Path:
    """What ``format`` calls a model, beside ``path``; its input is fixed at ``input_shape``: height and width.

    ``quantize``: bits; with 8, weights and activations are fitted to the pictures in a folder ``images`` beside
    ``path``, into which Ultralytics may write. ``max_batch_size``: over one, it takes batches of up to so many. Raises
    ModelError.
    """
    yolo = _open(path)
    options: Json = {"batch": max_batch_size, "dynamic": max_batch_size > 1}
    if quantize != 32:
        options["quantize"] = quantize
    if quantize == 8:
        data = path.with_name("calibration.yaml")
        data.write_text(json.dumps({"path": str(path.parent), "train": "images", "val": "images", "names": yolo.names}))
        options["data"] = str(data)
    return Path(yolo.export(format=format, imgsz=list(input_shape), verbose=False, **options))


def _open(path: Path) -> YOLO:
    try:
        yolo = YOLO(path)
    except Exception as exc:  # unpickling raises whatever its content likes
        if "YOLOv5" in str(exc):
            raise ModelError(
                f"{path.name} is a checkpoint of the YOLOv5 repository: export it there as ONNX, and name that file"
            ) from exc
        raise ModelError(
            f"Ultralytics cannot read {path.name}, which is damaged or of another framework ({type(exc).__name__}): "
            "export it as ONNX where it was made"
        ) from exc
    if yolo.task != "detect":
        raise ModelError(f"the task of {path.name} is {yolo.task!r}; only detection is served")
    if not isinstance(yolo.model, DetectionModel):  # Ultralytics takes any network, and guesses its task
        raise ModelError(f"{path.name} holds no YOLO detection model: export it as ONNX where it was made")
    channels = (getattr(yolo.model, "yaml", None) or {}).get("channels", 3)
    if channels != 3:
        raise ModelError(f"{path.name} takes pictures of {channels} channels, and only those of 3 are served")
    if isinstance(yolo.model, RTDETRDetectionModel):  # its boxes are shares of the picture's sides
        raise ModelError(f"{path.name} is an RT-DETR; only YOLO models are served")
    return yolo


if __name__ == "__main__":  # the export runs in a process of its own, so that a replica never holds torch's memory
    weights, target, options = sys.argv[1:]
    try:
        export(Path(weights), **json.loads(options)).rename(target)
    finally:  # here, since whoever called may be gone
        shutil.rmtree(Path(weights).parent, ignore_errors=True)

"""Read and export checkpoints with Ultralytics, without letting it install, download or report anything."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Ultralytics reads these variables when it is imported. They keep it from installing packages and from
# contacting servers.
os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_VERBOSE="false")

import torch
from safetensors import safe_open
from ultralytics import YOLO
from ultralytics.nn.tasks import RTDETRDetectionModel
from ultralytics.utils import downloads

from serve_app.errors import ModelError
from serve_app.models.checkpoint.architecture import task_of
from serve_app.models.checkpoint.failures import Unaccepted, untrusted
from serve_app.models.engines.metadata import read_input_shape, read_labels, read_task
from serve_app.models.engines.network import NETWORKS, build_network
from serve_app.types import InputShape, Json


def _same_file(file: str | Path, *_: object, **__: object) -> str:
    """Return the path unchanged. Raise FileNotFoundError if there is no such file.

    Ultralytics' function removes apostrophes from the path, looks in other folders, and downloads a missing file.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(file)
    return str(file)


downloads.attempt_download_asset = _same_file  # Ultralytics looks this function up again for each checkpoint


def load_network(path: Path) -> tuple[Any, Json]:
    """Load the network (a torch module) from a ``.pt`` or ``.safetensors`` file.

    Also return the network's metadata, with the keys that they have in an exported file: see ``engines.metadata``.

    A ``.pt`` file is a pickle, and loading one can run any code, so it must be trusted. A ``.safetensors`` file
    contains numbers, and JSON metadata with the ``architecture`` in Ultralytics' format and the ``names`` of the
    classes. Raise ModelError when the file contains no YOLO model.
    """
    if path.suffix == ".safetensors":
        network, saved = _load_safetensors(path)
        metadata = _metadata(network, network.names, saved.get("trained", {}).get("imgsz"))
    else:
        yolo = _open(path)
        network = yolo.model
        metadata = _metadata(network, yolo.names, yolo.overrides.get("imgsz"))
    if hasattr(network, "end2end"):
        network.end2end = False  # as in Ultralytics by default; a model with a single head ignores this attribute
    return network.float(), metadata


def _metadata(network: Any, names: Any, image_size_px: Any) -> Json:
    """Return the metadata of a network. ``image_size_px``: the size of the images with which it was trained."""
    return {
        "task": network.task,
        "names": dict(enumerate(read_labels({"names": names}))),
        "kpt_shape": getattr(network, "kpt_shape", None),
        "kpt_names": getattr(network, "kpt_names", None),
        "imgsz": image_size_px,
    }


def _load_safetensors(path: Path) -> tuple[Any, Json]:
    """Return the network, with its task and its names, and the metadata of the file.

    The file is an embedded model, or comes from a checkpoint that is not trusted (see ``models.checkpoint``).
    """
    metadata: Json = {}
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in file.metadata().items()}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        names = metadata["names"]
        network = build_network(metadata["architecture"], weights, metadata.get("modules"))
    except Exception as exc:  # Ultralytics' parser may raise any exception
        if {"checkpoint", "sha256"} <= metadata.keys():
            problem = str(exc) if isinstance(exc, Unaccepted) else "has an architecture that Ultralytics cannot build"
            raise untrusted(metadata["checkpoint"], problem, metadata["sha256"]) from exc
        raise ModelError(
            f"{path.name} is damaged or does not describe a YOLO11 model: copy or export it again"
        ) from exc
    network.task, network.names = task_of(network.yaml), dict(enumerate(read_labels({"names": names})))
    if metadata.get("keypoint_names"):
        network.kpt_names = dict.fromkeys(network.names, metadata["keypoint_names"])
    return network, metadata


def export(
    path: Path,
    *,
    format: str,
    input_shape: Sequence[int],
    quantize: int = 32,
    any_size: bool = False,
    max_batch_size: int = 1,
) -> Path:
    """Export the checkpoint ``path`` to a file or folder next to it, and return the path of the export.

    ``format``: Ultralytics' name for the format of the export. ``input_shape``: the height and width of the exported
    model's input. With ``any_size``, the exported model also takes other sizes. ``quantize``: bits per number. With 8
    bits, the folder ``images`` next to ``path`` must have calibration images, which Ultralytics may modify.
    ``max_batch_size``: if above 1, the exported model takes batches of up to this size, which needs ``any_size``. A
    classification model is exported with the size for which it was trained. Raise ModelError when the checkpoint is not
    a YOLO model.
    """
    yolo = _open(path)
    trained = {"task": yolo.task, "imgsz": yolo.overrides.get("imgsz")}
    input_shape = read_input_shape(trained, InputShape(*input_shape))
    options: Json = {"batch": max_batch_size, "dynamic": any_size}
    if quantize != 32:
        options["quantize"] = quantize
    if quantize == 8:
        options["data"] = str(_calibration_data(path, yolo))
    return Path(yolo.export(format=format, imgsz=list(input_shape), verbose=False, **options))


def _calibration_data(path: Path, yolo: YOLO) -> Path:
    """Describe the folder ``images`` next to ``path`` as a data set of Ultralytics, and return the data set's path."""
    pictures = path.with_name("images")
    if yolo.task == "classify":  # a data set for classification is a folder with a folder for each class
        folder = path.with_name("classes")
        for split in ("train", "val"):
            shutil.copytree(pictures, folder / split / "all", copy_function=os.link)
        return folder
    data = path.with_name("calibration.yaml")
    content = {"path": str(path.parent), "train": pictures.name, "val": pictures.name, "names": yolo.names}
    if yolo.task == "pose":
        content["kpt_shape"] = list(yolo.model.kpt_shape)
    # Ultralytics reads the file as YAML, which does not accept JSON's escapes of characters outside the BMP.
    data.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return data


def _open(path: Path) -> YOLO:
    if path.suffix == ".safetensors":
        path = _save_checkpoint(path)
    if not path.is_file():
        raise ModelError(f"there is no {path.name}, although it was there before: check what deletes it")
    try:
        yolo = YOLO(path)
    except Exception as exc:  # unpickling may raise any exception
        if "YOLOv5" in str(exc):
            raise ModelError(
                f"{path.name} is a checkpoint of the YOLOv5 repository: export it as ONNX there, and set model.weights "
                "to that file"
            ) from exc
        raise ModelError(
            f"Ultralytics cannot read {path.name}, which is damaged or of another framework ({type(exc).__name__}): "
            "export it as ONNX with its own framework"
        ) from exc
    network = NETWORKS[read_task(yolo.task)]
    if not isinstance(yolo.model, network):  # Ultralytics accepts any network and guesses its task
        raise ModelError(f"{path.name} does not contain a YOLO model: export it as ONNX with its own framework")
    channels = (getattr(yolo.model, "yaml", None) or {}).get("channels", 3)
    if channels != 3:
        raise ModelError(
            f"{path.name} takes images of {channels} channels, but only 3 are supported: use a model for colour images"
        )
    if isinstance(yolo.model, RTDETRDetectionModel):  # an RT-DETR's boxes are fractions of the image's sides
        raise ModelError(f"{path.name} is an RT-DETR, but only YOLO models are supported: use a YOLO model")
    return yolo


def _save_checkpoint(path: Path) -> Path:
    """Convert a ``.safetensors`` file to a ``.pt`` checkpoint next to it, and return the checkpoint's path.

    Ultralytics' exporter needs a ``YOLO`` object, which can be created only from a file. The checkpoint is a pickle
    that we have just written, into a folder of our own.
    """
    network, metadata = _load_safetensors(path)
    network.yaml["yaml_file"] = "yolo.yaml"  # otherwise, Ultralytics describes the model by the name of the file
    trained = metadata.get("trained", {})
    checkpoint = path.with_suffix(".pt")
    torch.save({"model": network, "train_args": {"imgsz": trained.get("imgsz", 640)}, **trained}, checkpoint)
    return checkpoint


if __name__ == "__main__":  # the export runs in its own process, so that a replica does not keep the memory of torch
    weights, target, options = sys.argv[1:]
    try:
        export(Path(weights), **json.loads(options)).rename(target)
    finally:  # this process cleans up, because its parent may have been killed
        shutil.rmtree(Path(weights).parent, ignore_errors=True)

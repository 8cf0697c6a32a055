"""The process that reads a checkpoint. Each process reads one file, and its memory and time are limited.

    python -m serve_app.models.checkpoint.reader CHECKPOINT [TARGET]

It writes the weights to TARGET as safetensors, with a description as JSON, or prints why it refuses the checkpoint.
Without TARGET, it only checks the checkpoint. It never imports PyTorch or Ultralytics.
"""

from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from serve_app.errors import ModelError
from serve_app.models.checkpoint.architecture import check_architecture, task_of
from serve_app.models.checkpoint.archive import Archive
from serve_app.models.checkpoint.failures import REFUSED, Unaccepted, damaged, untrusted
from serve_app.models.checkpoint.unpickler import Inert, Tensor, Unpickler
from serve_app.models.hashes import sha256_of
from serve_app.types import Json, Task

_MEMORY_BYTES = 2**30  # for Python and NumPy; the memory for the tensors depends on the size of the file
_MAX_SECONDS = 60  # of CPU time
_MAX_MODULES = 5_000  # Ultralytics' largest architecture has 1,472
_MAX_SETTINGS_BYTES = 4 << 20  # of all modules, as JSON; the largest architecture, YOLOv9e, has 0.24 MB
_MAX_NAMES_BYTES = 4 << 20  # of all classes, as JSON; the 601 names of Open Images have 0.02 MB
MAX_SETTING_NUMBERS = 16  # in a setting that is a tensor, such as the strides of a head
_PLAIN = (bool, float, int, str)
_SHOWN_NAMES = 5
_SHOWN_CHARACTERS = 80
_NETWORKS: dict[str, Task] = {  # the classes of networks that are supported
    "ClassificationModel": "classify",
    "DetectionModel": "detect",
    "OBBModel": "obb",
    "PoseModel": "pose",
    "SegmentationModel": "segment",
    "YOLOv10DetectionModel": "detect",
}
_OTHER_TASKS = {"DepthModel": "depth", "SemanticSegmentationModel": "semantic"}


def convert(path: Path, target: Path | None) -> None:
    """Write the weights and the description of a checkpoint to ``target``, if it is not None.

    Raise ModelError if the checkpoint is refused.
    """
    unpickler = Unpickler()
    try:
        try:
            archive = Archive(path)
            checkpoint = unpickler.load(archive.pickle())
            model = _model(checkpoint)
            _check_kind(model, path.name)
            weights, modules = _contents(model, archive)
            description = _describe(checkpoint, model, modules, archive)
        except (ModelError, MemoryError):
            raise
        except Exception as exc:
            if unpickler.needs:
                raise _needs(path, list(unpickler.needs)) from exc
            if isinstance(exc, Unaccepted):
                raise untrusted(path.name, str(exc), sha256_of(path)) from exc
            raise damaged(path.name) from exc
        if unpickler.needs:
            raise _needs(path, list(unpickler.needs))
        if target is not None:
            description |= {"checkpoint": path.name, "sha256": sha256_of(path)}
            save_file(weights, target, {key: json.dumps(value) for key, value in description.items()})
    except MemoryError as exc:
        raise ModelError(
            f"model.weights: {path.name} needs far more memory than a file of its size should: use another checkpoint"
        ) from exc


def _model(checkpoint: Any) -> Inert:
    """Return the model in a checkpoint. As Ultralytics does, prefer the averaged weights, ``ema``."""
    model = checkpoint.get("ema") or checkpoint.get("model") if isinstance(checkpoint, dict) else checkpoint
    return model if isinstance(model, Inert) else Inert("")


def _check_kind(model: Inert, file: str) -> None:
    """Raise ModelError when the model is not a YOLO model for colour images and for a supported task."""
    module, _, cls = model.name.rpartition(".")
    if module.startswith("models."):
        raise ModelError(
            f"{file} is a checkpoint of the YOLOv5 repository: export it as ONNX there, and set model.weights to that "
            "file"
        )
    if module == "ultralytics.nn.tasks" and cls in _OTHER_TASKS:
        tasks = ", ".join(sorted(set(_NETWORKS.values())))
        raise ModelError(f"the task of {file} is {_OTHER_TASKS[cls]!r}, but the supported tasks are {tasks}")
    if cls == "RTDETRDetectionModel":
        raise ModelError(f"{file} is an RT-DETR, but only YOLO models are supported: use a YOLO model")
    if module != "ultralytics.nn.tasks":
        raise ModelError(f"{file} does not contain a YOLO model: export it as ONNX with its own framework")
    architecture = model.state.get("yaml")
    channels = architecture.get("channels", architecture.get("ch", 3)) if isinstance(architecture, dict) else 3
    if type(channels) is int and channels != 3:
        raise ModelError(
            f"{file} takes images of {channels} channels, but only 3 are supported: use a model for colour images"
        )


def _contents(model: Inert, archive: Archive) -> tuple[dict[str, Any], Json]:
    """Return the arrays of PyTorch's state dict, and the class and the settings of each module.

    The keys of the first dictionary are the names in the state dict. The keys of the second are the modules' paths.
    """
    weights: dict[str, Any] = {}
    modules: Json = {}
    for path, module in _walk(model):
        if len(modules) == _MAX_MODULES:
            raise ValueError("too many modules")
        settings = {key: value for key, value in module.state.items() if _is_setting(value)}
        settings |= {key: archive.array(value).tolist() for key, value in module.state.items() if _is_small(value)}
        modules[path] = {"class": module.name.rpartition(".")[2], "settings": settings}
        not_saved = module.state.get("_non_persistent_buffers_set", ())
        for kind in ("_parameters", "_buffers"):
            for name, tensor in module.state[kind].items():
                if isinstance(tensor, Tensor) and not (kind == "_buffers" and name in not_saved):
                    weights[f"{path}.{name}"] = archive.array(tensor)
    if len(json.dumps(modules)) > _MAX_SETTINGS_BYTES:
        raise Unaccepted("has far more settings of modules than those that Ultralytics ships")
    return weights, modules


def _is_small(value: Any) -> bool:
    """Return whether the value is a tensor that may be a setting."""
    return isinstance(value, Tensor) and isinstance(value.shape, tuple) and _count(value.shape) <= MAX_SETTING_NUMBERS


def _count(shape: tuple[Any, ...]) -> float:
    return math.prod(size if type(size) is int and size >= 0 else math.inf for size in shape)


def _walk(model: Inert) -> Iterator[tuple[str, Inert]]:
    """Yield each module below the model with its path, such as ``model.0.conv``."""
    waiting = [(str(name), module) for name, module in model.state["_modules"].items()]
    while waiting:
        path, module = waiting.pop()
        if module is None:  # a part that fusing has removed
            continue
        yield path, module
        waiting += [(f"{path}.{name}", inner) for name, inner in module.state["_modules"].items()]


def _is_setting(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(item, _PLAIN) for item in value))


def _describe(checkpoint: Any, model: Inert, modules: Json, archive: Archive) -> Json:
    """Return what is needed to build the network again, and what is known about its training."""
    saved = checkpoint if isinstance(checkpoint, dict) else {}
    trained = {key: saved[key] for key in ("date", "version") if isinstance(saved.get(key), str)}
    if saved.get("modelopt"):  # Ultralytics would use it to insert layers that the architecture does not have
        raise Unaccepted("has the state of a quantised training, but such a state is not read")
    arguments = saved.get("train_args")
    if isinstance(arguments, dict) and type(arguments.get("imgsz")) is int:
        trained["imgsz"] = arguments["imgsz"]
    names = model.state["names"]
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(value, _PLAIN) for item in names.items() for value in item):
        raise Unaccepted("has class names that are not plain texts, such as texts in NumPy's format")
    if len(json.dumps(names)) > _MAX_NAMES_BYTES:  # a small pickle can name many classes with the same long text
        raise Unaccepted("has far longer class names than a YOLO model needs")
    _check_transforms(model.state.get("transforms"), archive)
    architecture = check_architecture(model.state["yaml"])
    if task_of(architecture) != _NETWORKS.get(model.name.rpartition(".")[2]):
        raise Unaccepted("has an architecture for another task than that of its network")
    return {
        "names": names,
        "keypoint_names": _keypoint_names(model.state.get("kpt_names")),
        "architecture": architecture,
        "modules": modules,
        "trained": trained,
    }


def _check_transforms(transforms: Any, archive: Archive) -> None:
    """Raise Unaccepted if a classification model prepares its images in another way than Ultralytics does by default.

    Ultralytics saves the preparation with the network: to scale, to crop, and to subtract a mean of 0.
    """
    steps = transforms.state["transforms"] if isinstance(transforms, Inert) else []
    for step in steps:
        for key, default in (("mean", 0), ("std", 1)):
            if (value := step.state.get(key)) is None:
                continue
            numbers = archive.array(value).tolist() if isinstance(value, Tensor) else list(value)
            if any(number != default for number in numbers):
                raise Unaccepted(f"normalises images with a {key} of {numbers!r:.80} instead of {default}")


def _keypoint_names(names: Any) -> list[str] | None:
    """Return the names of the first class's keypoints, or None if the checkpoint does not name them."""
    first = next(iter(names.values()), None) if isinstance(names, dict) else None
    if not isinstance(first, (list, tuple)) or not all(isinstance(name, str) for name in first):
        return None
    if len(json.dumps(first)) > _MAX_NAMES_BYTES:
        raise Unaccepted("has far longer names of keypoints than a YOLO model needs")
    return list(first)


def _needs(path: Path, names: list[str]) -> ModelError:
    shown = [
        name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}…" for name in names[:_SHOWN_NAMES]
    ]
    if len(names) > _SHOWN_NAMES:
        shown.append(f"{len(names) - _SHOWN_NAMES} more")
    problem = f"needs {', '.join(shown)}, which Ultralytics' checkpoints do not need"
    return untrusted(path.name, problem, sha256_of(path))


def main() -> int:
    """Read the checkpoint that the command line names, and return the exit status."""
    path, target = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    most = _MEMORY_BYTES + 3 * path.stat().st_size
    limits = {resource.RLIMIT_AS: most, resource.RLIMIT_CPU: _MAX_SECONDS, resource.RLIMIT_CORE: 0}
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    try:
        convert(path, target)
    except ModelError as exc:
        print(exc.detail)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())

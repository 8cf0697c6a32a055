"""What the Open Inference Protocol says about a model: its inputs, its outputs, and Ultralytics' metadata."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.config import AppArgs
from serve_app.errors import NotFound
from serve_app.types import EngineInfo, Json

VERSION = "1"  # of every model; a roll-out does not change it, because clients keep it
PLATFORM = "sightline"
TENSOR_INPUT, TENSOR_OUTPUT = "images", "output0"  # Ultralytics' names
IMAGE_INPUT, IMAGE_OUTPUT = "image", "detections"
_IMAGE_SUFFIX = "-image"
_STRIDE_PX = 32  # of all inputs, because clients round sizes up to a multiple


@dataclass(frozen=True)
class Served:
    """A model under the name that clients of this protocol use."""

    name: str
    model: str  # the name of the application's model
    takes_pictures: bool  # encoded images in, detections out; otherwise tensors in, tensors out

    @property
    def tensors(self) -> tuple[str, str]:
        """The names of the input and of the output."""
        return (IMAGE_INPUT, IMAGE_OUTPUT) if self.takes_pictures else (TENSOR_INPUT, TENSOR_OUTPUT)


def served_models(args: AppArgs) -> dict[str, Served]:
    """Return every name that a client may use. A model's own name wins over another model's name with a suffix."""
    own = {name: Served(name, name, takes_pictures=False) for name in args.detectors()}
    with_suffix = {f"{name}{_IMAGE_SUFFIX}": name for name in own}
    return {name: Served(name, model, takes_pictures=True) for name, model in with_suffix.items()} | own


def find(served: dict[str, Served], name: str, version: str) -> Served:
    """Return the model with this name. Raise NotFound if there is none, or if it has no such version."""
    if name not in served:
        raise NotFound(f"no model is named {name[:64]!r}; use one of {', '.join(served)}")
    if version != VERSION:
        raise NotFound(f"{name} has only the version {VERSION}; ask for it, or for no version")
    return served[name]


def metadata_of(one: Served, info: EngineInfo | None) -> Json:
    """Return the answer to a request for a model's metadata. ``info`` is None if the model takes encoded images."""
    names = zip(one.tensors, _tensors_of(info), strict=True)
    given, answered = ({"name": name, "datatype": kind, "shape": [-1, *shape]} for name, (kind, shape) in names)
    return {
        "name": one.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [given],
        "outputs": [answered],
    }


def config_of(one: Served, info: EngineInfo | None, max_images: int) -> Json:
    """Return the answer to a request for a model's config, in the form of Triton."""
    names = zip(one.tensors, _tensors_of(info), strict=True)
    given, answered = (
        {"name": name, "data_type": "TYPE_STRING" if kind == "BYTES" else f"TYPE_{kind}", "dims": shape}
        for name, (kind, shape) in names
    )
    config: Json = {
        "name": one.name,
        "platform": PLATFORM,
        "max_batch_size": max_images,
        "input": [given],
        "output": [answered],
    }
    if info is not None:
        # Ultralytics reads Python's literals
        config["parameters"] = {"metadata": {"string_value": repr(_ultralytics_metadata(info))}}
    return config


def _tensors_of(info: EngineInfo | None) -> tuple[tuple[str, list[int]], tuple[str, list[int]]]:
    """Return the datatype and the shape for one image, of the input and of the output; -1 is any number."""
    if info is None:
        return ("BYTES", []), ("BYTES", [])
    return ("FP32", [3, *info.input_shape]), ("FP32", _output_shape(info))


def _output_shape(info: EngineInfo) -> list[int]:
    if info.task == "classify":
        return [len(info.labels)]
    extras = {"pose": len(info.keypoints) * info.numbers_per_keypoint, "obb": 1}.get(info.task, 0)
    return [-1, 6 + extras] if info.end_to_end else [4 + len(info.labels) + extras, -1]


def _ultralytics_metadata(info: EngineInfo) -> Json:
    """Return the metadata that Ultralytics reads from a model's config.

    ``args`` says that the input has a fixed size, so that Ultralytics letterboxes each image to ``imgsz`` and sends it
    alone. The server forms the batches.
    """
    metadata: Json = {
        "description": f"Sightline {info.name}",
        "task": info.task,
        "names": dict(enumerate(info.labels)),
        "imgsz": list(info.input_shape),
        "stride": _STRIDE_PX,
        "channels": 3,
        "batch": 1,
        "end2end": info.end_to_end and info.task != "classify",
        "args": {"batch": 1, "dynamic": False, "nms": info.has_built_in_nms},
    }
    if info.task == "pose":
        metadata["kpt_shape"] = [len(info.keypoints), info.numbers_per_keypoint]
    return metadata

"""What the Open Inference Protocol says about a model: its inputs, its outputs, and Ultralytics' metadata."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.api.compat.names import ModelNames
from serve_app.errors import NotFound
from serve_app.types import EngineInfo, Json

VERSION = "1"  # of every model; a roll-out does not change it, because clients keep it
_PLATFORM = "sightline"
_IMAGE_SUFFIX = "-image"
_STRIDE_PX = 32  # of all inputs; clients round sizes up to a multiple


@dataclass(frozen=True)
class Served:
    """A model under a name that clients of this protocol use."""

    name: str
    model: str  # the name of the application's model
    takes_pictures: bool  # encoded images in, detections out; otherwise tensors in, tensors out

    @property
    def input(self) -> str:
        """The name of the input. Ultralytics also has this name for tensors."""
        return "image" if self.takes_pictures else "images"

    @property
    def output(self) -> str:
        """The name of the output. Ultralytics also has this name for tensors."""
        return "detections" if self.takes_pictures else "output0"


def served(names: ModelNames) -> list[Served]:
    """Return every model under the names that lists show."""
    return [find(names, f"{name}{suffix}", VERSION) for name in names.shown for suffix in ("", _IMAGE_SUFFIX)]


def find(names: ModelNames, name: str, version: str) -> Served:
    """Return the model with this name. A model's own name wins over another model's name with the suffix.

    Raise NotFound if there is no such model, or if it has no such version.
    """
    if version != VERSION:
        raise NotFound(f"every model has only the version {VERSION}; ask for it, or for no version")
    try:
        return Served(name, names.find(name), takes_pictures=False)
    except NotFound:
        if not name.lower().endswith(_IMAGE_SUFFIX):
            raise
    return Served(name, names.find(name[: -len(_IMAGE_SUFFIX)]), takes_pictures=True)


def metadata_of(one: Served, info: EngineInfo | None) -> Json:
    """Return the answer to a request for a model's metadata. ``info`` is None if the model takes encoded images."""
    given, answered = (
        {"name": name, "datatype": kind, "shape": [-1, *shape]} for name, kind, shape in _tensors_of(one, info)
    )
    return {
        "name": one.name,
        "versions": [VERSION],
        "platform": _PLATFORM,
        "inputs": [given],
        "outputs": [answered],
    }


def config_of(one: Served, info: EngineInfo | None, max_images: int) -> Json:
    """Return the answer to a request for a model's config, in the form of Triton."""
    given, answered = (
        {"name": name, "data_type": "TYPE_STRING" if kind == "BYTES" else f"TYPE_{kind}", "dims": shape}
        for name, kind, shape in _tensors_of(one, info)
    )
    config: Json = {
        "name": one.name,
        "platform": _PLATFORM,
        "max_batch_size": max_images,
        "input": [given],
        "output": [answered],
    }
    if info is not None:
        # Ultralytics reads Python's literals
        config["parameters"] = {"metadata": {"string_value": repr(_ultralytics_metadata(info))}}
    return config


def _tensors_of(one: Served, info: EngineInfo | None) -> list[tuple[str, str, list[int]]]:
    """Return the name, datatype and shape for one image of the input and of the output; -1 is any number."""
    if info is None:
        return [(one.input, "BYTES", []), (one.output, "BYTES", [])]
    return [(one.input, "FP32", [3, *info.input_shape]), (one.output, "FP32", _output_shape(info))]


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

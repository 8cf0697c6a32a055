"""Read the metadata of a model: its task, its classes, its keypoints, and whether it has built-in NMS."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import yaml

from serve_app.errors import ModelError
from serve_app.types import InputShape, Json, Task

_MAX_LABEL_CHARACTERS = 1000  # every detection in an answer repeats its label
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # characters that control a terminal, or start a line
_USUAL_STRIDE_PX = 32  # that of all published models
_NOTHING = ("", "none", "null", "~")  # spellings of an empty value in Python, JSON and YAML
_TASKS: tuple[Task, ...] = get_args(Task)
_MAX_QUOTED = 64  # characters of a value in an error message
_MAX_KEYPOINTS = 1000  # those of the largest published data set for poses are 133
# The keypoints of a person in COCO. Models that do not name their 17 keypoints have these.
COCO_KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)


@dataclass(frozen=True)
class Metadata:
    """What a model's metadata say about its results."""

    task: Task
    labels: tuple[str, ...]  # the label of each class id
    keypoints: tuple[str, ...] = ()  # the name of each keypoint, if the task is pose
    numbers_per_keypoint: int = 3  # x, y and confidence, or only x and y

    @property
    def outputs(self) -> int:
        """The number of outputs that are read: for ``segment``, also the prototypes."""
        return 2 if self.task == "segment" else 1

    @property
    def takes_rectangles(self) -> bool:
        """Whether an image may get an input of its own aspect ratio. Classification models get a square crop."""
        return self.task != "classify"


def read_metadata(metadata: Json) -> Metadata:
    """Return what a model's metadata say about its results.

    A file without a task is a detection model, because such files come from older exporters for detection. Raise
    ModelError when the metadata cannot be read, or when the task or the architecture is not supported.
    """
    task = read_task(metadata.get("task"))
    if _is_rtdetr(metadata):
        raise ModelError("the model is an RT-DETR, whose output has another format: only YOLO models are supported")
    labels = read_labels(metadata)
    if task != "pose":
        return Metadata(task, labels)
    count, numbers = _keypoint_shape(metadata.get("kpt_shape"))
    return Metadata(task, labels, _keypoint_names(metadata.get("kpt_names"), count), numbers)


def read_task(task: Any) -> Task:
    """Return the task in a model's metadata. Raise ModelError for a task that is not supported."""
    name = str(task).lower()
    if name in _NOTHING:
        return "detect"
    known = next((one for one in _TASKS if one == name), None)
    if known is None:
        raise ModelError(f"the model's task is {task!r}, but the supported tasks are {', '.join(_TASKS)}")
    return known


def read_labels(metadata: Json) -> tuple[str, ...]:
    """Return the label of each class id, from ``names`` in the metadata.

    The value of ``names`` is either a list of labels or a mapping from class ids to labels. The ids may be text. In an
    ONNX file, the list or mapping is written as text: Python's repr, JSON or YAML. A label may occur twice. Characters
    that control a terminal are replaced by question marks. Raise ModelError when the labels cannot be read.
    """
    names = metadata.get("names")
    if isinstance(names, str):
        names = _from_text(names)
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise ModelError("the model does not name its classes: export it with Ultralytics, which adds their names")
    if not names:
        raise ModelError("the model's metadata has no class names: export the model with Ultralytics")
    if not all(isinstance(label, (str, int, float, type(None))) for label in names.values()):
        raise ModelError(
            "the model does not name its classes: its names contain lists or mappings instead of labels; export it "
            "again with the name of each class"
        )
    try:
        by_id = {int(class_id): _printable(label) for class_id, label in names.items()}
    except (TypeError, ValueError) as exc:
        raise ModelError(
            "the model does not name its classes: the keys of its names are not class ids; export it again with the "
            "name of each class"
        ) from exc
    if missing := [class_id for class_id in range(len(names)) if class_id not in by_id]:
        raise ModelError(
            f"the model does not name its classes: it has {len(names)} names, but no name for class "
            f"{missing[0]}; export it again with the name of each class"
        )
    if (longest := max(map(len, by_id.values()))) > _MAX_LABEL_CHARACTERS:
        raise ModelError(
            f"the model has a class name of {longest} characters, but at most {_MAX_LABEL_CHARACTERS} are accepted: "
            "export it again with shorter names"
        )
    return tuple(by_id[class_id] for class_id in range(len(names)))


def has_built_in_nms(metadata: Json, operations: Iterable[str]) -> bool:
    """Return whether the file has built-in NMS, according to its metadata (``nms=True``) or its operations."""
    arguments = metadata.get("args")
    if isinstance(arguments, str):
        arguments = _from_text(arguments)
    says_so = isinstance(arguments, dict) and str(arguments.get("nms")).lower() == "true"
    return says_so or any("nonmax" in name.lower() or "nms" in name.lower() for name in operations)


def is_end_to_end(metadata: Json) -> bool:
    """Return whether the metadata say that the head returns each object once, like the heads of YOLOv10 and YOLO26."""
    return str(metadata.get("end2end")).lower() == "true"


def read_input_shape(metadata: Json, wanted: InputShape) -> InputShape:
    """Return the size of the images with which a classification model was trained: ``imgsz`` in its metadata.

    Return ``wanted`` for the other tasks, whose models take any size, and if the metadata do not say the size.
    """
    sides = metadata.get("imgsz")
    if isinstance(sides, str):
        sides = _from_text(sides)
    sides = [sides] * 2 if isinstance(sides, int) else sides
    if read_task(metadata.get("task")) != "classify" or not isinstance(sides, (list, tuple)) or len(sides) != 2:
        return wanted
    if not all(re.fullmatch("[1-9][0-9]{0,3}", str(side)) for side in sides):
        return wanted
    return InputShape(int(sides[0]), int(sides[1]))


def read_stride(metadata: Json) -> int:
    """Return the largest stride of the network in pixels, 32 if the metadata do not say it."""
    text = str(metadata.get("stride"))
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,3}", text) else _USUAL_STRIDE_PX


def _is_rtdetr(metadata: Json) -> bool:
    """Return whether the metadata name the head of an RT-DETR, or describe the model as an RT-DETR.

    Only Ultralytics 8.4 and newer versions write the head into the metadata. A description has the form "Ultralytics
    NAME model trained on DATA". Only NAME counts, because a data set can have any name.
    """
    name, _, _ = str(metadata.get("description", "")).lower().partition(" trained on ")
    return metadata.get("head") == "RTDETRDecoder" or "rtdetr" in re.sub("[-_ ]", "", name)


def _keypoint_shape(shape: Any) -> tuple[int, int]:
    """Return the number of keypoints, and the numbers for each of them, from ``kpt_shape`` in the metadata."""
    sides = _from_text(shape) if isinstance(shape, str) else shape
    texts = [str(number) for number in sides] if isinstance(sides, (list, tuple)) else []
    if len(texts) != 2 or not re.fullmatch("[1-9][0-9]{0,3}", texts[0]) or texts[1] not in ("2", "3"):
        found = "missing" if shape is None else _printable(shape)[:_MAX_QUOTED]
        raise ModelError(
            f"the model does not say how many keypoints it has: kpt_shape in its metadata is {found}, and must be like "
            "[17, 3], with 2 or 3 numbers for each keypoint; export it again with Ultralytics"
        )
    if int(texts[0]) > _MAX_KEYPOINTS:
        raise ModelError(f"the model has {texts[0]} keypoints, but at most {_MAX_KEYPOINTS} are supported")
    return int(texts[0]), int(texts[1])


def _keypoint_names(names: Any, count: int) -> tuple[str, ...]:
    """Return the names of the first class's keypoints, from ``kpt_names`` in the metadata, or default names."""
    if isinstance(names, str):
        names = _from_text(names)
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    numbers = list(map(str, range(count)))  # Ultralytics' names of keypoints that a data set does not name
    if isinstance(names, (list, tuple)) and len(names) == count and list(names) != numbers:
        return tuple(_printable(name)[:_MAX_LABEL_CHARACTERS] for name in names)
    if count == len(COCO_KEYPOINTS):
        return COCO_KEYPOINTS
    return tuple(f"keypoint {number}" for number in range(1, count + 1))


def _from_text(text: str) -> Any:
    """Parse JSON, Python's repr or YAML. Return None for any other text.

    YAML scalars stay text, because a loader that converts scalars would turn the label ``no`` into ``False``.
    """
    for read in (json.loads, ast.literal_eval, lambda yaml_text: yaml.load(yaml_text, yaml.BaseLoader)):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, yaml.YAMLError):
            continue
    return None


def _printable(label: Any) -> str:
    """Return a label without characters that control a terminal."""
    return _CONTROL.sub("?", _join_surrogates(str(label)))


def _join_surrogates(label: str) -> str:
    """Return the label with surrogate pairs joined into characters, and unpaired surrogates replaced.

    JSON and Python may write a character above U+FFFF as two surrogates, which UTF-8 cannot encode.
    """
    return label.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

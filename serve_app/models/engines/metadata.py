"""What an exported model says of itself: its classes, its task, and whether it suppresses its own boxes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

import yaml

from serve_app.errors import ModelError
from serve_app.types import Json

_NOTHING = ("", "none", "null", "~")  # as Python, JSON and YAML write it


def read_labels(metadata: Json) -> tuple[str, ...]:
    """Return the label of each class id, from the metadata's ``names``. Raises ModelError.

    ``names`` is a list, or a mapping of class ids, which may be text, to labels. It may itself be text, as it always is
    in an ONNX file: what Python prints, JSON or YAML. A label may occur twice. Raises ModelError for another task, too.
    """
    task = metadata.get("task")
    if str(task).lower() not in (*_NOTHING, "detect"):
        raise ModelError(f"this model's task is {task!r}; only detection is served")
    if _is_rtdetr(metadata):
        raise ModelError("this model is an RT-DETR, whose boxes mean something else; only YOLO models are served")
    names = metadata.get("names")
    if isinstance(names, str):
        names = _from_text(names)
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise ModelError("the model does not name its classes: export it with Ultralytics, which writes them into it")
    if not names:
        raise ModelError("the model names no class: export it with Ultralytics, from a model with classes")
    if not all(isinstance(label, (str, int, float, type(None))) for label in names.values()):
        raise ModelError("the model does not name its classes: its names are lists or mappings where labels should be")
    try:
        by_id = {int(class_id): _whole(str(label)) for class_id, label in names.items()}
    except (TypeError, ValueError) as exc:
        raise ModelError("the model does not name its classes: the keys of its names are no class ids") from exc
    if missing := [class_id for class_id in range(len(names)) if class_id not in by_id]:
        raise ModelError(
            f"the model does not name its classes: it has {len(names)} names, and none of them for class {missing[0]}"
        )
    return tuple(by_id[class_id] for class_id in range(len(names)))


def has_built_in_nms(metadata: Json, operations: Iterable[str]) -> bool:
    """Return whether the file suppresses boxes itself: it says so (``nms=True``), or an operation of its graph does."""
    arguments = metadata.get("args")
    if isinstance(arguments, str):
        arguments = _from_text(arguments)
    says_so = isinstance(arguments, dict) and str(arguments.get("nms")).lower() == "true"
    return says_so or any("nonmax" in name.lower() or "nms" in name.lower() for name in operations)


def is_end_to_end(metadata: Json) -> bool:
    """Return whether the file says that its head answers each object once, as YOLOv10's and YOLO26's do."""
    return str(metadata.get("end2end")).lower() == "true"


def _is_rtdetr(metadata: Json) -> bool:
    """Return whether the head is an RT-DETR's: its name since Ultralytics 8.4, and the description before that.

    The description is "Ultralytics NAME model trained on DATA", and data sets are named after anything.
    """
    name, _, _ = str(metadata.get("description", "")).lower().partition(" trained on ")
    return metadata.get("head") == "RTDETRDecoder" or "rtdetr" in re.sub("[-_ ]", "", name)


def _from_text(text: str) -> Any:
    """Return the value that the text stands for; None if it is neither JSON, nor what Python prints, nor YAML.

    YAML's scalars stay text: to its other readers the label ``no`` is ``False``.
    """
    for read in (json.loads, ast.literal_eval, lambda yaml_text: yaml.load(yaml_text, yaml.BaseLoader)):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, yaml.YAMLError):
            continue
    return None


def _whole(label: str) -> str:
    """Return the label with halves of characters joined, and those without their other half replaced.

    JSON and Python may write a character beyond the first 65,536 as two halves (surrogates), which UTF-8 cannot hold.
    """
    return label.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

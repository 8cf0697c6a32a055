"""Read the metadata of an exported model: its classes, its task, and whether it has built-in NMS."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

import yaml

from serve_app.errors import ModelError
from serve_app.types import Json

_MAX_LABEL_CHARACTERS = 1000  # every detection in an answer repeats its label
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # characters that control a terminal, or start a line
_USUAL_STRIDE_PX = 32  # that of all published models
_NOTHING = ("", "none", "null", "~")  # spellings of an empty value in Python, JSON and YAML


def read_labels(metadata: Json) -> tuple[str, ...]:
    """Return the label of each class id, from ``names`` in the metadata.

    The value of ``names`` is either a list of labels or a mapping from class ids to labels. The ids may be text. In an
    ONNX file, the list or mapping is written as text: Python's repr, JSON or YAML. A label may occur twice. Characters
    that control a terminal are replaced by question marks. Raise ModelError when the labels cannot be read, or when the
    task is not detection.
    """
    task = metadata.get("task")
    if str(task).lower() not in (*_NOTHING, "detect"):
        raise ModelError(f"the model's task is {task!r}, but only detection is supported: use a detection model")
    if _is_rtdetr(metadata):
        raise ModelError("the model is an RT-DETR, whose output has another format: only YOLO models are supported")
    names = metadata.get("names")
    if isinstance(names, str):
        names = _from_text(names)
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise ModelError("the model does not name its classes: export it with Ultralytics, which adds their names")
    if not names:
        raise ModelError("the model's metadata has no class names: export a detection model with Ultralytics")
    if not all(isinstance(label, (str, int, float, type(None))) for label in names.values()):
        raise ModelError(
            "the model does not name its classes: its names contain lists or mappings instead of labels; export it "
            "again with the name of each class"
        )
    try:
        by_id = {int(class_id): _CONTROL.sub("?", _join_surrogates(str(label))) for class_id, label in names.items()}
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


def _join_surrogates(label: str) -> str:
    """Return the label with surrogate pairs joined into characters, and unpaired surrogates replaced.

    JSON and Python may write a character above U+FFFF as two surrogates, which UTF-8 cannot encode.
    """
    return label.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

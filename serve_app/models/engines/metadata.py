"""What an exported model says of itself: its classes, and which of YOLO's two heads it has."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from serve_app.errors import ModelError
from serve_app.types import Json


def read_labels(metadata: Json) -> tuple[str, ...]:
    """The label of each class id, from what Ultralytics' export wrote. Raises ModelError."""
    task = metadata.get("task", "detect")
    if task != "detect":
        raise ModelError(f"this model's task is {task!r}; only detection is served")
    names: Any = metadata.get("names")
    try:
        if isinstance(names, str):  # in an ONNX file every value is text
            names = ast.literal_eval(names)
        names = {int(class_id): label for class_id, label in names.items()}  # in JSON every key is text
        labels = tuple(str(names[class_id]) for class_id in range(len(names)))
    except (AttributeError, TypeError, KeyError, ValueError, SyntaxError) as exc:
        raise ModelError("the model does not name its classes: export it with Ultralytics") from exc
    if not labels:
        raise ModelError("the model names no class")
    return labels


def has_end_to_end_head(output: Sequence[Any], labels: tuple[str, ...]) -> bool:
    """From the output's shape: ``(batch, n, 6)``, or the raw head's ``(batch, 4 + classes, n)``. Raises ModelError."""
    if len(output) == 3 and output[2] == 6:  # there are never as few anchors
        return True
    if len(output) == 3 and output[1] == 4 + len(labels):
        return False
    raise ModelError(f"the model's output {list(output)} is neither of YOLO's two heads for {len(labels)} classes")

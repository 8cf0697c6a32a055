"""Turn a model's raw output into results, with one module for each task, with NumPy and OpenCV only."""

from __future__ import annotations

from typing import Protocol

from serve_app.detections import Detections
from serve_app.models.engines import RawOutput
from serve_app.models.tasks import classify, detect, obb, pose, segment
from serve_app.types import DetectOptions, EngineInfo, Task


class TaskModule(Protocol):
    """What the module of a task has."""

    def extras(self, raw: RawOutput, info: EngineInfo, /) -> int:
        """Return how many further numbers the task adds to each candidate, such as the coordinates of keypoints."""

    def to_detections(self, raw: RawOutput, info: EngineInfo, options: DetectOptions, /) -> Detections:
        """Return the results for one image: see ``to_detections`` below."""


_MODULES: dict[Task, TaskModule] = {
    "detect": detect,
    "segment": segment,
    "pose": pose,
    "obb": obb,
    "classify": classify,
}


def task_of(info: EngineInfo) -> TaskModule:
    """Return the module of the task for which a model was trained."""
    return _MODULES[info.task]


def to_detections(raw: RawOutput, info: EngineInfo, options: DetectOptions) -> Detections:
    """Return the results for one image in pixels of the model input, the most confident object first.

    ``raw`` is what the engine with ``info`` has returned for the image. Raise ServeAppError when its values are not
    those of a YOLO model.
    """
    return task_of(info).to_detections(raw, info, options)

"""A YOLO model, untrained, with traps: a picture whose first pixel is red kills its process, a blue one hangs it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

SIZE_PX = 64
_COLOURS = {"harmless": (0, 0, 0), "deadly": (0, 0, 255), "endless": (255, 0, 0)}  # BGR


class TrappedModel(DetectionModel):  # type: ignore[misc]  # mypy does not read Ultralytics
    """What the checkpoint holds."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, torch.Tensor):
            red, green, blue = x[:, :, 0, 0].unbind(1)
            if ((red == 1) & (green + blue == 0)).any():
                os.kill(os.getpid(), signal.SIGKILL)
            if ((blue == 1) & (green + red == 0)).any():
                time.sleep(10_000)
        return super().forward(x, *args, **kwargs)


def picture(kind: str) -> bytes:
    """Of the model's own size: its pixels arrive as they are."""
    return cv2.imencode(".png", np.full((SIZE_PX, SIZE_PX, 3), _COLOURS[kind], np.uint8))[1].tobytes()


def save(path: Path) -> Path:
    """The checkpoint."""
    yolo = YOLO("yolo11n.yaml")
    yolo.model.__class__ = TrappedModel
    yolo.save(path)
    return path

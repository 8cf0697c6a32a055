"""An untrained YOLO model that crashes if an image's first pixel is red, and hangs if the pixel is blue."""

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


class TrappedModel(DetectionModel):  # type: ignore[misc]  # mypy does not follow Ultralytics
    """A network that crashes or hangs on some images."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, torch.Tensor):
            red, green, blue = x[:, :, 0, 0].unbind(1)
            if ((red == 1) & (green + blue == 0)).any():
                os.kill(os.getpid(), signal.SIGKILL)
            if ((blue == 1) & (green + red == 0)).any():
                time.sleep(10_000)
        return super().forward(x, *args, **kwargs)


def picture(kind: str) -> bytes:
    """Return a PNG of the model's input size, so that its pixels reach the model unchanged."""
    return cv2.imencode(".png", np.full((SIZE_PX, SIZE_PX, 3), _COLOURS[kind], np.uint8))[1].tobytes()


def save(path: Path) -> Path:
    """Save a checkpoint with the model, and return ``path``."""
    yolo = YOLO("yolo11n.yaml")
    yolo.model.__class__ = TrappedModel
    yolo.save(path)
    return path

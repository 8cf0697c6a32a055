"""The two models that are measured: a trained one, and an untrained YOLO26, which is built from Ultralytics' YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from scripts.gpu_day.stage import Plan
from serve_app.config import ModelArgs
from serve_app.images.letterbox import choose_shape
from serve_app.types import InputShape, Pixels

_SIDE_PX, _SMALL_SIDE_PX = 640, 320
_WIDE_PX = 1920, 1080  # the size of a frame that needs a rectangle


def settings(plan: Plan) -> dict[str, ModelArgs]:
    """Return the settings of both models, by name. The untrained model is saved when it does not exist yet."""
    cache = plan.folder / "cache"
    size_px = _SMALL_SIDE_PX if plan.is_small else _SIDE_PX
    trained = ModelArgs(weights=Path(plan.weights), engine="torch", cache_dir=cache, image_size_px=size_px)
    return {"trained": trained, "untrained": trained.model_copy(update={"weights": untrained(plan)})}


def untrained(plan: Plan) -> Path:
    """Return the checkpoint of an untrained YOLO26: the medium network, or the smallest if the numbers are small."""
    name = "yolo26n" if plan.is_small else "yolo26m"
    path = plan.folder / f"untrained_{name}.pt"
    if not path.exists():
        from ultralytics import YOLO

        torch.manual_seed(0)
        yolo = YOLO(f"{name}.yaml")
        yolo.model.names = {class_id: f"class {class_id}" for class_id in range(80)}
        yolo.save(path)
    return path


def two_shapes(shapes: Sequence[InputShape]) -> list[InputShape]:
    """Return the square and the shape of 16:9 frames. They are one shape if the model takes only squares."""
    return list(dict.fromkeys([shapes[-1], choose_shape(*_WIDE_PX, shapes)]))


def frames(shape: InputShape, count: int) -> list[Pixels]:
    """Return model inputs of noise."""
    return [np.random.default_rng(seed).integers(0, 255, shape.array, np.uint8) for seed in range(count)]

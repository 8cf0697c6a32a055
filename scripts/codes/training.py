"""Train ``codes`` from random weights, on generated images only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")  # must be set before ultralytics is imported

import torch
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from scripts.codes.symbols import LABELS

SIZE_PX = 352
BASE = "yolo11n.yaml"  # Ultralytics' file with the architecture
# The factors for depth and width, and the maximum number of channels. They reduce the network from 2.6 million to 0.65
# million parameters.
SCALE = (0.5, 0.1875, 384)


def network() -> DetectionModel:
    """Build the untrained network."""
    architecture = yaml_model_load(BASE)
    architecture.update(scales={"n": list(SCALE)}, scale="n")
    return CodesModel(architecture, nc=len(LABELS), verbose=False)


class CodesModel(DetectionModel):  # type: ignore[misc]  # mypy does not follow Ultralytics, so its classes are Any
    """A network that is trained with a forward pass in bfloat16. The loss is computed in float32.

    bfloat16 halves the training time on a CPU with AMX (Intel's instructions for matrices).
    """

    def loss(self, batch: dict[str, Any], preds: Any = None) -> Any:
        if preds is None:
            pictures = batch["img"].contiguous(memory_format=torch.channels_last)
            with torch.autocast(pictures.device.type, torch.bfloat16):
                preds = self.forward(pictures)
            preds = _float32(preds)
        return super().loss(batch, preds)


def _float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _float32(item) for key, item in value.items()}
    return type(value)(_float32(item) for item in value)


class CodesTrainer(DetectionTrainer):  # type: ignore[misc]  # mypy does not follow Ultralytics
    """Ultralytics' trainer with the network ``CodesModel``."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> DetectionModel:
        torch.set_num_threads(os.cpu_count() or 1)  # override Ultralytics, which leaves one core unused
        return network().to(memory_format=torch.channels_last)


def train(data: Path, folder: Path, *, epochs: int, seed: int, device: str) -> Path:
    """Train the network and return the path of the checkpoint. An epoch takes about 6 minutes on two cores."""
    trainer = CodesTrainer(
        overrides={
            "model": BASE,
            "data": str(data),
            "project": str(folder),
            "name": "run",
            "exist_ok": True,
            "epochs": epochs,
            "imgsz": SIZE_PX,
            "multi_scale": 0.3,  # image sizes of 246 to 457 px, so codes are 10 to 430 px wide
            "batch": 16,
            "nbs": 16,
            "optimizer": "AdamW",
            "lr0": 0.002,
            "cos_lr": True,
            "warmup_epochs": 0.5,
            "seed": seed,
            "device": device,
            # Ultralytics supports automatic mixed precision (AMP) only on CUDA. CodesModel uses bfloat16 instead.
            "amp": False,
            "workers": 2,
            # The generated images vary enough, so they are not combined into mosaics. A mirrored code is invalid, so
            # images are not flipped.
            "mosaic": 0.0,
            "fliplr": 0.0,
            "translate": 0.1,
            "scale": 0.2,
            "plots": False,
        }
    )
    trainer.train()
    return Path(trainer.last)

"""Trains ``codes`` from random weights on nothing but generated pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")  # before ultralytics is imported

import torch
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from scripts.codes.symbols import LABELS

SIZE_PX = 352
BASE = "yolo11n.yaml"  # the architecture, as Ultralytics ships it
SCALE = (0.5, 0.1875, 384)  # its depth, width and widest layer: 0.65 million parameters instead of 2.6


def network() -> DetectionModel:
    """The untrained network."""
    architecture = yaml_model_load(BASE)
    architecture.update(scales={"n": list(SCALE)}, scale="n")
    return CodesModel(architecture, nc=len(LABELS), verbose=False)


class CodesModel(DetectionModel):  # type: ignore[misc]  # mypy skips Ultralytics: its classes are Any
    """Its forward pass runs in bfloat16 while training: half the time on a CPU with AMX, the loss stays float32."""

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


class CodesTrainer(DetectionTrainer):  # type: ignore[misc]  # as above
    """Ultralytics' trainer, of our network."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> DetectionModel:
        torch.set_num_threads(os.cpu_count() or 1)  # here, since the trainer has just set one fewer
        return network().to(memory_format=torch.channels_last)


def train(data: Path, folder: Path, *, epochs: int, seed: int, device: str) -> Path:
    """The trained checkpoint's path. On two cores an epoch of 15,000 pictures takes about 6 minutes."""
    trainer = CodesTrainer(
        overrides={
            "model": BASE,
            "data": str(data),
            "project": str(folder),
            "name": "run",
            "exist_ok": True,
            "epochs": epochs,
            "imgsz": SIZE_PX,
            "multi_scale": 0.3,  # 246 to 457 px: codes of 10 to 430 px
            "batch": 16,
            "nbs": 16,
            "optimizer": "AdamW",
            "lr0": 0.002,
            "cos_lr": True,
            "warmup_epochs": 0.5,
            "seed": seed,
            "device": device,
            "amp": False,  # Ultralytics' own is for CUDA; CodesModel brings bfloat16
            "workers": 2,
            # Every picture is made, hence already varied: no mosaic, no mirror image (a mirrored code is no code).
            "mosaic": 0.0,
            "fliplr": 0.0,
            "translate": 0.1,
            "scale": 0.2,
            "plots": False,
        }
    )
    trainer.train()
    return Path(trainer.last)

"""Train a tiny network for one task, and save it as a checkpoint that has nothing but the model."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")  # must be set before ultralytics is imported

import torch
import yaml
from ultralytics import __version__
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.nn.tasks import ClassificationModel, OBBModel, PoseModel, SegmentationModel

from scripts.shapes.dataset import SIZE_PX, write_dataset
from scripts.shapes.scenes import KEYPOINTS, LABELS
from serve_app.types import Json

KINDS = {  # task -> Ultralytics' trainer and network
    "classify": (ClassificationTrainer, ClassificationModel),
    "obb": (OBBTrainer, OBBModel),
    "pose": (PoseTrainer, PoseModel),
    "segment": (SegmentationTrainer, SegmentationModel),
}
# Each chain of models is trained in a process of its own. The model for keypoints and the one that classifies learn
# much faster from the weights of another model.
CHAINS = (("obb", "pose"), ("segment", "classify"))
_SETTINGS: dict[str, Json] = {
    "classify": {"epochs": 6, "lr0": 0.002, "scale": 0.1, "batch": 32, "nbs": 32},
    "obb": {"epochs": 8, "lr0": 0.005, "scale": 0.0},
    "pose": {"epochs": 7, "lr0": 0.003, "scale": 0.0, "pose": 24.0},
    "segment": {"epochs": 6, "lr0": 0.005, "scale": 0.0},
}
_HEADS: dict[str, list[Any]] = {
    "obb": ["OBB", ["nc", 1]],
    "pose": ["Pose", ["nc", [len(KEYPOINTS), 3]]],
    "segment": ["Segment", ["nc", 16, 24]],  # 16 masks, computed from 24 channels
}
_BACKBONE = [
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [24, 3, 2]],
    [-1, 1, "C3k2", [24, False, 0.5]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "C3k2", [32, False, 0.5]],  # 4: stride 8
    [-1, 1, "Conv", [40, 3, 2]],
    [-1, 1, "C3k2", [40, False, 0.5]],  # 6: stride 16
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "SPPF", [32, 5]],  # 8: stride 32
]
_NECK = [
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 6], 1, "Concat", [1]],
    [-1, 1, "C3k2", [40, False]],  # 11
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 4], 1, "Concat", [1]],
    [-1, 1, "C3k2", [32, False]],  # 14: stride 8
    [-1, 1, "Conv", [32, 3, 2]],
    [[-1, 11], 1, "Concat", [1]],
    [-1, 1, "C3k2", [40, False]],  # 17: stride 16
    [-1, 1, "Conv", [40, 3, 2]],
    [[-1, 8], 1, "Concat", [1]],
    [-1, 1, "C3k2", [40, False]],  # 20: stride 32
]


def architecture(task: str) -> Json:
    """Return a narrow YOLO11 in the format of Ultralytics' YAML files."""
    if task == "classify":
        # The layers in front of the head are those of the model for segment, from whose weights the training starts.
        head: list[Any] = [*_NECK[:3], [-1, 1, "Classify", ["nc"]]]
    else:
        # The branch for keypoints has a quarter of these channels, and needs more of them than the other branches.
        head = [*_NECK, [[14, 17, 20], 1, *_HEADS[task]]]
        head[5] = [-1, 1, "C3k2", [64 if task == "pose" else 32, False]]
    described: Json = {"nc": len(LABELS[task]), "reg_max": 4, "backbone": _BACKBONE, "head": head}
    if task == "pose":
        described["kpt_shape"] = [len(KEYPOINTS), 3]
    return described


def make(tasks: Sequence[str], folder: Path, seed: int) -> str:
    """Train the models of some tasks, and save them in a folder. Return lines that say how long this took.

    The first model starts from random weights, and each further one from the weights of the one before.
    """
    lines = []
    start = None
    for task in tasks:
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        with tempfile.TemporaryDirectory() as temporary:
            trained = train(task, Path(temporary), seed=seed, start=start)
        start = folder / f"shapes-{task}.pt"
        save(trained, task, start)
        took_s, took_cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
        lines.append(f"{start.name}: {start.stat().st_size / 1e3:.0f} kB, {took_s:.0f} s, CPU time {took_cpu_s:.0f} s")
    return "\n".join(lines)


def train(task: str, folder: Path, *, seed: int, start: Path | None) -> torch.nn.Module:
    """Generate the data set in an empty folder, train the network, and return it.

    ``start`` is a checkpoint: layers that are the same start from its weights.
    """
    data = write_dataset(folder / "data", task, seed)
    described = folder / f"{task}.yaml"
    described.write_text(yaml.safe_dump(architecture(task)))
    trainer = KINDS[task][0](
        overrides={
            "model": str(described),
            "data": str(data),
            "project": str(folder),
            "name": "run",
            "imgsz": SIZE_PX,
            "batch": 8,
            "nbs": 8,
            "optimizer": "AdamW",
            "cos_lr": True,
            "warmup_epochs": 0.5,
            "warmup_bias_lr": 0.0,
            "weight_decay": 0.0005,
            "pretrained": str(start) if start else False,
            "seed": seed,
            "deterministic": True,
            "device": "cpu",
            "workers": 0,
            "cache": "ram",
            "amp": False,
            "plots": False,
            "val": False,
            # The generated images vary enough. Flips make more of them.
            "flipud": 0.5,
            "mosaic": 0.0,
            "translate": 0.0,
            "hsv_h": 0.0,
            "hsv_s": 0.0,
            "hsv_v": 0.0,
            "auto_augment": None,
            "erasing": 0.0,
            **_SETTINGS[task],
        }
    )
    # The network is so small that a second thread would use a second core without saving time.
    trainer.add_callback("on_pretrain_routine_end", lambda _: torch.set_num_threads(1))
    trainer.train()
    return trainer.ema.ema


def save(trained: torch.nn.Module, task: str, path: Path) -> None:
    """Save a network in the format of Ultralytics, in half precision.

    The network in the file is a new one with the trained weights, so the file has neither the settings of the training
    nor paths of the machine.
    """
    network = KINDS[task][1](architecture(task), nc=len(LABELS[task]), verbose=False)
    network.load_state_dict(trained.float().state_dict())
    network.names = dict(enumerate(LABELS[task]))
    network.task = task
    if task == "pose":
        network.kpt_names = {class_id: list(KEYPOINTS) for class_id in network.names}
    network.half().eval().requires_grad_(False)
    checkpoint = {"model": network, "train_args": {"task": task, "imgsz": SIZE_PX}, "epoch": -1, "version": __version__}
    torch.save(checkpoint, path)

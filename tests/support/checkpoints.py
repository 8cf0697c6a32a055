"""Checkpoints for tests.

Some contain networks that Ultralytics builds, some have hostile contents, and some come from a short training.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

TRUST = "if you trust the file, which can then run any code, set model.weights_sha256"


class Call:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments, state = self.call
        return (function, arguments) if state is None else (function, arguments, state)


@dataclass(frozen=True)
class Reading:
    """What the process that reads checkpoints did with one file."""

    status: int
    sentence: str
    peak_mib: float


def read(path: Path, target: Path) -> Reading:
    """Read a checkpoint in the process that ``convert`` would start, and measure its memory.

    The peak that the kernel reports includes the time before a new process starts its program. At that time, the
    process still has the memory of its parent, so a small process starts the reader.
    """
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n"
        "sys.exit(done.returncode)"
    )
    command = [sys.executable, "-m", "serve_app.models.checkpoint.reader", str(path), str(target)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *command], env=environment, capture_output=True, text=True, check=False
    )
    return Reading(done.returncode, done.stdout.strip(), int(done.stderr.splitlines()[-1]) / 1024)


def tiny_network(architecture: str = "yolov8n.yaml", classes: int = 2) -> Any:
    """Return an untrained detection network of Ultralytics."""
    torch.manual_seed(0)
    network = DetectionModel(architecture, nc=classes, verbose=False)
    network.names = {class_id: f"class {class_id}" for class_id in range(classes)}
    return network


def saved(path: Path, **others: Any) -> Path:
    """Save a good network together with other objects."""
    torch.save({"model": tiny_network(), **others}, path)
    return path


def with_module(path: Path, change: Callable[[Any], object]) -> Path:
    """Save a network after a change."""
    network = tiny_network()
    change(network)
    torch.save({"model": network}, path)
    return path


def archive(path: Path, pickle: bytes, storages: dict[str, bytes] | None = None, *, method: int = 0) -> Path:
    """Write an archive as ``torch.save`` does, with any pickle and any storages, and return ``path``."""
    with zipfile.ZipFile(path, "w", compression=method) as file:
        file.writestr("archive/data.pkl", pickle)
        for key, content in (storages or {}).items():
            file.writestr(f"archive/data/{key}", content)
    return path


def rewrite(source: Path, target: Path, change: Callable[[bytes], bytes], *, method: int = 0) -> Path:
    """Copy a checkpoint, but change its pickle, and return ``target``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression=method) as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name.endswith("/data.pkl") else old.read(name))
    return target


def train(folder: Path, architecture: str) -> Path:
    """Train a network for one epoch on four generated images. Return the folder with the checkpoints.

    It has ``best.pt``, ``last.pt``, and ``epoch0.pt``, from which the state of the training was not stripped.
    """
    data = folder / "data"
    numbers = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
    for index in range(4):
        picture = numbers.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        cv2.rectangle(picture, (10, 10), (40, 40), (0, 0, 255), -1)
        cv2.imwrite(str(data / "images" / f"{index}.png"), picture)
        (data / "labels" / f"{index}.txt").write_text("0 0.39 0.39 0.47 0.47\n")
    description = {"path": str(data), "train": "images", "val": "images", "names": {0: "square", 1: "other"}}
    (data / "data.yaml").write_text(yaml.safe_dump(description))
    YOLO(architecture).train(
        data=str(data / "data.yaml"),
        epochs=1,
        imgsz=32,
        batch=4,
        device="cpu",
        workers=0,
        amp=False,
        plots=False,
        val=False,
        save_period=1,
        project=folder,
        name="run",
        verbose=False,
    )
    return folder / "run" / "weights"

"""Stage: say what the machine has, and build the untrained model."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess

import psutil
import torch

from scripts.gpu_day.models import untrained
from scripts.gpu_day.stage import Plan, Record

_PACKAGES = ("numpy", "torch", "torchvision", "ultralytics", "ray", "cv2", "av", "openvino", "onnxruntime", "tensorrt")


def run(plan: Plan, record: Record) -> None:
    """Add the machine's cores, its memory, its GPU, and the versions of the packages."""
    record.add(
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        shared_memory_gib=round(shutil.disk_usage("/dev/shm").total / 2**30, 1),
        gpu=torch.cuda.get_device_name() if plan.has_gpu else None,
        cuda=torch.version.cuda,
    )
    if shutil.which("nvidia-smi"):
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
        record.add(nvidia_smi=done.stdout.splitlines())
    for name in _PACKAGES:
        try:
            version = getattr(importlib.import_module(name), "__version__", "")
        except Exception as exc:  # a package whose libraries are missing may raise any error
            record.add(package=name, error=f"{type(exc).__name__}: {exc}"[:300])
        else:
            record.add(package=name, version=str(version))
    record.add(untrained_mib=round(untrained(plan).stat().st_size / 2**20, 1))

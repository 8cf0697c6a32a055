"""How busy the GPU and this machine's cores are."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil

_QUERY = "utilization.gpu,utilization.memory,memory.used,power.draw,clocks.sm"
_KEYS = ("gpu_percent", "gpu_memory_busy_percent", "gpu_memory_mib", "gpu_power_w", "gpu_clock_mhz")
_PERIOD_MS = 100


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Yield a dict that has the means of ``nvidia-smi``'s figures, and the busy cores, after the ``with`` block.

    Without ``nvidia-smi``, the dict has only the busy cores.
    """
    seen: dict[str, Any] = {}
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", f"-lms={_PERIOD_MS}", "-i", "0"]
    process = None
    if shutil.which("nvidia-smi"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    psutil.cpu_percent()
    try:
        yield seen
    finally:
        seen["busy_cores"] = round(psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1), 2)
        if process is not None:
            process.terminate()
            output, _ = process.communicate()
            seen.update(means(output))


def means(output: str) -> dict[str, float]:
    """Return the means of the figures that ``nvidia-smi`` has printed, one line for each moment."""
    rows = []
    for line in output.splitlines():
        try:
            rows.append([float(value) for value in line.split(",")])
        except ValueError:
            pass  # the last line may be cut off, and some GPUs do not know every figure
    rows = [row for row in rows if len(row) == len(_KEYS)]
    return dict(zip(_KEYS, np.mean(rows, axis=0).round(1).tolist(), strict=True)) if rows else {}

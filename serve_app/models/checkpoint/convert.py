"""Check or convert an untrusted checkpoint in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from serve_app.errors import ModelError
from serve_app.models.checkpoint.failures import REFUSED, printable

_TIMEOUT_S = 60  # for a nano model, the process takes less than a second


def without_pickle(weights: Path, sha256: str | None, folder: Path) -> Path:
    """Return weights that can be loaded without running code: ``weights``, or a safetensors file in ``folder``.

    A pickle is converted, unless the operator trusts it by its hash, ``sha256``. Raise ModelError when the file is not
    a checkpoint of a YOLO model, or needs names, memory or time that such a checkpoint does not need.
    """
    if weights.suffix != ".pt" or sha256 is not None:
        return weights
    target = folder / f"{weights.stem}.safetensors"
    _run_reader(weights, target)
    return target


def check_pickle(weights: Path) -> None:
    """Raise ModelError when ``without_pickle`` would refuse a checkpoint that nobody trusts. Write no file."""
    _run_reader(weights)


def _run_reader(weights: Path, *target: Path) -> None:
    # -P: import nothing from the current folder
    command = [sys.executable, "-P", "-m", "serve_app.models.checkpoint.reader", str(weights), *map(str, target)]
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",  # the buffers of each thread would count towards the memory limit
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, encoding="utf-8", timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise ModelError(
            f"model.weights: reading {printable(weights.name)} took more than {_TIMEOUT_S} s, but should take far "
            "less: use another checkpoint"
        ) from exc
    if done.returncode == REFUSED:
        raise ModelError(printable(done.stdout.strip()))
    if done.returncode < 0:
        raise ModelError(
            f"model.weights: reading {printable(weights.name)} was ended by signal {-done.returncode}, perhaps because "
            f"it took more than {_TIMEOUT_S} s or too much memory: use another checkpoint"
        )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise ModelError(
            f"model.weights: {printable(weights.name)} cannot be converted to safetensors ({printable(reason)}): copy "
            "it again, or free some space"
        )

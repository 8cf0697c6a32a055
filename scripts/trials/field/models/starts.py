"""Cases of starting the service with a bad model. The service must exit with status 1 and say why in its last line."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import httpx
import numpy as np
import torch
import yaml

from scripts.launch import ROOT, free_port, start
from scripts.trials.field.case import Case
from scripts.trials.field.models.constant import anchors, rows, save
from scripts.trials.field.models.inputs import finder
from scripts.trials.field.models.verdicts import Make, Problem

_TIMEOUT_S = 240.0
_SIGKILL = 9


class _Deadly:
    """An object whose unpickling ends the process, as if the kernel had killed it for using too much memory."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (_SIGKILL,)


def _deadly(folder: Path) -> Path:
    torch.save(_Deadly(), folder / "deadly.pt")
    return folder / "deadly.pt"


def _cut(folder: Path) -> Path:
    path = save(folder / "cut.onnx", anchors())
    path.write_bytes(path.read_bytes()[:200])
    return path


def _ends_in(make: Make, says: str, settings: Mapping[str, str] | None = None) -> Problem:
    def problem(_: str) -> str | None:
        with TemporaryDirectory() as folder:
            weights = make(Path(folder))
            given = {"SERVE_APP_WEIGHTS": str(weights), "SERVE_APP_STATE_DIR": folder, "RAY_ADDRESS": "local"}
            given |= settings or {}
            if weights.suffix == ".pt":
                given["SERVE_APP_WEIGHTS_SHA256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
            command = [sys.executable, "-m", "serve_app", str(ROOT / "configs/local.yaml"), "--port", str(free_port())]
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | given,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        if done.returncode != 1:
            return f"the exit status is {done.returncode}: {said}"
        return None if re.search(says, said) and "Failed to update" not in said else f"the last line is {said!r}"

    return problem


def _rectangle(_: str) -> str | None:
    """Check that images of several shapes get the right boxes over HTTP and shared memory."""
    with TemporaryDirectory() as folder:
        config = yaml.safe_load((ROOT / "configs/local.yaml").read_text(encoding="utf-8"))
        weights = finder(Path(folder, "finder.onnx"), 384, 640)
        config["applications"][0]["args"] = {"model": {"weights": str(weights)}}
        path = Path(folder, "config.yaml")
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        server = start(path, Path(folder, "log"))
        try:
            server.wait_until_ready()
            return _wrong_place(server.url)
        finally:
            server.stop()


def _wrong_place(url: str) -> str | None:
    for width_px, height_px in ((1280, 720), (640, 384), (500, 900)):
        picture = np.zeros((height_px, width_px, 3), np.uint8)
        x, y = width_px * 7 // 10, height_px * 3 // 10
        picture[y - 30 : y + 30, x - 30 : x + 30] = (0, 0, 255)
        body = cv2.imencode(".png", picture)[1].tobytes()
        answer = httpx.post(f"{url}/detect", content=body, timeout=60, trust_env=False).json()
        boxes = [detection["bbox"] for detection in answer.get("detections", [])]
        centres = [((box["x1"] + box["x2"]) / 2, (box["y1"] + box["y2"]) / 2) for box in boxes]
        if len(centres) != 1 or max(abs(centres[0][0] - x), abs(centres[0][1] - y)) > 0.02 * max(width_px, height_px):
            return f"in an image of {width_px}x{height_px} the box is at {centres}, not at {(x, y)}: {answer}"
    return None


_STARTS: dict[str, Problem] = {
    "a missing file": _ends_in(lambda folder: folder / "nowhere.onnx", "there is no .*nowhere.onnx"),
    "half a file": _ends_in(_cut, "OpenVINO cannot read cut.onnx"),
    "an RT-DETR": _ends_in(
        lambda folder: save(folder / "rtdetr.onnx", rows(), metadata={"head": "RTDETRDecoder"}), "is an RT-DETR"
    ),
    "a network that computes NaN": _ends_in(
        lambda folder: save(folder / "nan.onnx", anchors() * float("nan")), "NaN or infinite"
    ),
    "a checkpoint that kills its process": _ends_in(_deadly, "died.*memory", {"SERVE_APP_ENGINE": "torch"}),
    "a GPU's engine without a GPU": _ends_in(
        lambda folder: save(folder / "a.onnx", anchors()).rename(folder / "a.pt"),
        "needs a GPU",
        {"SERVE_APP_ENGINE": "tensorrt"},
    ),
}
CASES = tuple(Case("models that cannot start", member, problem, is_quick=False) for member, problem in _STARTS.items())

"""Convert weights to an OpenVINO folder for the other servers, as Ultralytics does by default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import openvino as ov
import yaml

from serve_app.models.weights import EMBEDDED

SIZE_PX = 640


def openvino_folder(weights: str, folder: Path) -> Path:
    """Convert ``codes``, a .pt or an .onnx to an OpenVINO folder with a square input. Return the folder's path."""
    path = Path(weights)
    if path.is_dir():
        return path.resolve()
    if weights == "codes":
        path = EMBEDDED / "codes.onnx"
    target = folder / f"{path.stem}_openvino_model"
    if path.suffix == ".pt":
        link = folder / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
        command = [str(Path(sys.executable).with_name("yolo")), "export", f"model={link}", "format=openvino"]
        offline = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
        subprocess.run([*command, f"imgsz={SIZE_PX}"], check=True, stdout=subprocess.DEVNULL, env=os.environ | offline)
        return target
    model = ov.Core().read_model(path)
    model.reshape([1, 3, SIZE_PX, SIZE_PX])
    target.mkdir(exist_ok=True)
    ov.save_model(model, target / f"{path.stem}.xml")
    metadata = {key: yaml.safe_load(value.value) for key, value in model.get_rt_info()["framework"].items()}
    (target / "metadata.yaml").write_text(yaml.safe_dump(metadata | {"imgsz": [SIZE_PX, SIZE_PX], "batch": 1}))
    return target

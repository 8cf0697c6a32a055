from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ultralytics import YOLO

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.load import load
from tests.conftest import trusted


@pytest.mark.parametrize(("folder", "sentence"), [(None, "needs model.calibration_dir"), ("", "there is no image")])
def test_int8_needs_calibration_pictures(tmp_path: Path, folder: str | None, sentence: str) -> None:
    weights = tmp_path / "any.pt"
    weights.write_bytes(b"never read")
    calibration_dir = None if folder is None else tmp_path / folder
    args = ModelArgs(**trusted(weights), precision="int8", calibration_dir=calibration_dir, cache_dir=tmp_path)
    with pytest.raises(ModelError, match=sentence):
        load(args, has_gpu=False)


def test_an_unsupported_precision_is_refused_before_any_export(tmp_path: Path) -> None:
    weights = tmp_path / "any.pt"
    weights.write_bytes(b"never read")
    with pytest.raises(ModelError, match="does not support bf16"):
        load(
            ModelArgs(**trusted(weights), engine="onnx", precision="bf16", cache_dir=tmp_path / "cache"), has_gpu=False
        )


@pytest.mark.parametrize("library", ["onnx", "onnxruntime", "tensorrt"])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    (tmp_path / "any.pt").write_bytes(b"never read")
    version, find_spec = importlib.metadata.version, importlib.util.find_spec

    def without(name: str) -> str:
        if name == library:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else find_spec(name))
    engine = "tensorrt" if library == "tensorrt" else "onnx"
    args = ModelArgs(**trusted(tmp_path / "any.pt"), engine=engine, cache_dir=tmp_path)
    with pytest.raises(ModelError, match=rf"needs an extra; run pip install 'sightline\[{engine}\]'"):
        load(args, has_gpu=engine == "tensorrt")


@pytest.mark.parametrize("cache_dir", ["/proc/nowhere", "/etc/passwd", "/proc", "~nobody-of-this-name/cache"])
def test_a_cache_that_is_not_writable_is_refused_in_one_sentence(tmp_path: Path, cache_dir: str) -> None:
    (tmp_path / "any.pt").write_bytes(b"never read")
    args = ModelArgs(**trusted(tmp_path / "any.pt"), cache_dir=Path(cache_dir))
    with pytest.raises(ModelError, match=r"^model\.cache_dir: .*SERVE_APP_CACHE_DIR"):
        load(args, has_gpu=False)


@pytest.mark.only_with_chaos
def test_the_next_process_waits_for_the_export_of_a_killed_one(tmp_path: Path) -> None:
    """If a process is killed during an export, the export still finishes.

    The next process uses the exported file, and does not export again.
    """
    YOLO("yolov8n.yaml").save(tmp_path / "untrained.pt")
    args = trusted(tmp_path / "untrained.pt") | {"image_size_px": 64, "cache_dir": str(tmp_path / "cache")}
    program = (
        "import sys, json; from serve_app.config import ModelArgs; from serve_app.models.load import load;"
        "load(ModelArgs(**json.loads(sys.argv[1])), has_gpu=False)"
    )
    with subprocess.Popen([sys.executable, "-c", program, json.dumps(args)]) as first:
        exporting = psutil.Process(first.pid).children
        while not any("serve_app.models.engines.ultralytics" in process.cmdline() for process in exporting()):
            assert first.poll() is None
            time.sleep(0.01)
        first.kill()
    assert load(ModelArgs.model_validate(args), has_gpu=False).info.input_shape == (64, 64)
    model, lock = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert lock == f"{model}.lock"


def test_a_checkpoint_that_cannot_be_exported_is_refused_with_our_own_message(tmp_path: Path) -> None:
    weights = tmp_path / "other.pt"
    weights.write_bytes(b"no checkpoint")
    with pytest.raises(
        ModelError, match=r"^Ultralytics cannot read other\.pt, which is damaged or of another framework"
    ):
        load(ModelArgs(**trusted(weights), cache_dir=tmp_path / "cache"), has_gpu=False)

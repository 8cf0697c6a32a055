"""Tests of the wheel, which is installed in a new environment and used outside the checkout."""

from __future__ import annotations

import os
import signal
import site
import subprocess
import tarfile
import zipfile
from pathlib import Path

import yaml

from scripts.codes import samples
from scripts.codes.score import Guess, score
from scripts.launch import free_port, is_ready
from scripts.trials.cluster import frame_pools
from serve_app.client import Client
from serve_app.images.drawing import encode_jpeg
from tests.integration.conftest import eventually, install_wheel

WEIGHTS = {"serve_app/models/embedded/codes.onnx", "serve_app/models/embedded/codes.safetensors"}


def test_wheel_and_source_distribution_contain_the_model(built: Path) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert set(zipfile.ZipFile(wheel).namelist()) >= WEIGHTS
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= WEIGHTS | {"configs/local.yaml", "scripts/codes/training.py"}


def test_the_wheel_serves_its_own_config_from_any_folder(built: Path, tmp_path: Path) -> None:
    """Take serve_app from the wheel, and its dependencies from this environment through a .pth file."""
    venv = tmp_path / "venv"
    python, packages = install_wheel(built, venv)
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))

    pools, port = frame_pools(), free_port()
    config = yaml.safe_load((venv / "share/sightline/configs/local.yaml").read_text())
    config["http_options"]["port"] = port
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "local.yaml").write_text(yaml.safe_dump(config))
    command = [str(python), "-m", "ray.serve.scripts", "run", "--address", "local", "local.yaml"]
    log = tmp_path / "log"
    with log.open("w") as output:
        env = os.environ | {"PYTHONPATH": "", "SERVE_APP_STATE_DIR": str(tmp_path / "state")}
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: is_ready(url) or process.poll() is not None, what="readiness")
        assert process.poll() is None, log.read_text()[-3000:]
        scene = samples.picture(3)
        with Client(url) as client:
            answer = client.detect(encode_jpeg(scene.pixels))
        result = score(scene, [Guess.of(found) for found in answer])
        assert (answer.model, len(result.missed), len(result.false)) == ("codes", 0, 0)
        process.send_signal(signal.SIGINT)
        process.wait(90)
        assert frame_pools() <= pools
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

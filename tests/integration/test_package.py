"""Tests of the wheel, which is installed in a new environment and used outside the checkout."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import site
import subprocess
import tarfile
import zipfile
from pathlib import Path

import psutil

from scripts.codes import samples
from scripts.codes.score import Guess, score
from scripts.launch import free_port, is_ready
from scripts.trials.cluster import frame_pools
from serve_app.images.drawing import encode_jpeg
from serve_app.schemas.detect import DetectResponse
from tests.integration.conftest import (
    LONG_TIMEOUT_S,
    Running,
    eventually,
    install_wheel,
    stop_with_requests_in_flight,
    wait_for_release,
)
from tests.support.paths import ROOT

WEIGHTS = {"serve_app/models/embedded/codes.onnx", "serve_app/models/embedded/codes.safetensors"}
CONSOLE = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "serve_app/console").rglob("*")
    if path.is_file() and path.suffix not in {".md", ".png"}  # the README and its screenshots are for the repository
}
CONFIGS = {f"serve_app/configs/{name}" for name in ("local.yaml", "gpu.yaml", "serve.env", "haproxy.py")}


def test_wheel_and_source_distribution_contain_the_model_and_the_configs(built: Path) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert set(zipfile.ZipFile(wheel).namelist()) >= WEIGHTS | CONFIGS | CONSOLE
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert "serve_app/console/index.html" in CONSOLE
    assert names >= WEIGHTS | {"configs/local.yaml", "scripts/codes/training.py"}


def test_the_wheel_serves_its_own_config_from_any_folder(built: Path, tmp_path: Path) -> None:
    """Take serve_app from the wheel, and its dependencies from this environment through a .pth file."""
    _, packages = install_wheel(built, tmp_path / "venv")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    (tmp_path / "elsewhere").mkdir()
    sightline = [str(tmp_path / "venv/bin/sightline")]
    env = os.environ | {"PYTHONPATH": "", "SERVE_APP_STATE_DIR": str(tmp_path / "state")}
    env |= {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}

    def run(*arguments: str) -> str:
        command = [*sightline, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path / "elsewhere", env=env, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "sightline serve --weights best.pt" in run("--help")
    port = free_port()
    pools, log = frame_pools(), tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*sightline, "serve", "--port", str(port)], cwd=tmp_path / "elsewhere", env=env,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: is_ready(url) or process.poll() is not None, what="readiness")
        assert process.poll() is None, log.read_text()[-3000:]
        scene = samples.picture(3)
        (tmp_path / "elsewhere/scene.jpg").write_bytes(encode_jpeg(scene.pixels))
        answer = DetectResponse.model_validate(json.loads(run("detect", "scene.jpg", "--json", "--url", url)))
        result = score(scene, [Guess.of(found) for found in answer.detections])
        assert (answer.model, len(result.missed), len(result.false)) == ("codes", 0, 0)
        eventually(lambda: "stop       press Ctrl-C" in log.read_text(), what="the addresses in the output")
        assert f"docs       {url}/docs" in log.read_text()
        assert f"starting Ray for {packages}/serve_app/configs/local.yaml" in log.read_text()
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("raylet" in member.name() for member in family)
        running = Running(process, url, signal.SIGINT, pools)
        assert asyncio.run(stop_with_requests_in_flight(running, encode_jpeg(scene.pixels))) == [200] * 8
        assert process.wait(90) == 0
        _, alive = psutil.wait_procs(family, timeout=LONG_TIMEOUT_S)
        assert alive == []
        wait_for_release(pools)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

"""Tests that the Python scripts can be executed from any folder, and use the Python of the virtual environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def test_the_first_line_finds_the_environment_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "a folder/scripts").mkdir(parents=True)
    (tmp_path / "a folder/.venv").symlink_to(sys.prefix)
    script = shutil.copy(SCRIPTS / "streams.py", tmp_path / "a folder/scripts/streams.py")
    done = subprocess.run([script, "start", "--help"], cwd="/", capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--source" in done.stdout


@pytest.mark.parametrize(
    ("weights", "passed_on"),
    [
        ("", ""),
        ("codes", "codes"),
        ("yolo26n.pt", "yolo26n.pt"),
        ("yolo26n-seg.pt", "yolo26n-seg.pt"),
        ("yolo11s.pt", "{folder}/yolo11s.pt"),  # this file exists
        ("best.pt", "{folder}/best.pt"),
        ("./yolo26n.pt", "{folder}/yolo26n.pt"),
        ("models/yolo26n.pt", "{folder}/models/yolo26n.pt"),
        ("~/yolo26n.pt", "{home}/yolo26n.pt"),
        ("yolo26n.onnx", "{folder}/yolo26n.onnx"),
    ],
)
def test_serve_makes_paths_absolute_but_not_names_of_published_models(
    weights: str, passed_on: str, tmp_path: Path
) -> None:
    checkout, folder = tmp_path / "checkout", tmp_path / "elsewhere"
    for path in (checkout / "scripts", checkout / "configs", checkout / ".venv/bin", folder):
        path.mkdir(parents=True)
    (folder / "yolo11s.pt").touch()
    script = shutil.copy(SCRIPTS / "serve", checkout / "scripts/serve")
    (checkout / "scripts/env").write_text('cd "$(dirname "${BASH_SOURCE[0]}")/.."\n')  # installs nothing
    (checkout / "configs/serve.env").touch()
    python = checkout / ".venv/bin/python"
    python.write_text('#!/bin/sh\nprintf %s "$SERVE_APP_WEIGHTS"\n')
    python.chmod(0o755)
    env = os.environ | {"SERVE_APP_WEIGHTS": weights, "HOME": str(tmp_path)}
    done = subprocess.run([script], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == passed_on.format(folder=folder, home=tmp_path)


def test_all_scripts_begin_with_the_same_line_and_are_executable() -> None:
    scripts = [SCRIPTS / name for name in ("bench.py", "deploy.py", "soak.py", "streams.py")]
    assert len({script.read_text().splitlines()[0] for script in scripts}) == 1
    assert all(script.stat().st_mode & 0o111 for script in scripts)


def test_another_python_is_refused_with_a_hint() -> None:
    """The other Python lacks the packages of the virtual environment."""
    command = [sys.executable, "-E", "-S", str(SCRIPTS / "streams.py"), "list"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "No module named 'serve_app': run this with .venv/bin/python, which scripts/env creates\n"

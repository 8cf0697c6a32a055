"""Environments for clients of other servers, whose dependencies clash with Sightline's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

_TIMEOUT_S = 600


def python_with(name: str, *packages: str) -> Path:
    """Return the Python of an environment with these packages. It is made in ``build/clients`` and used again."""
    folder = ROOT / "build/clients" / name
    uv, python = Path(sys.executable).with_name("uv"), folder / "bin/python"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True, timeout=_TIMEOUT_S)
    command: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python, *packages]
    subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    return python

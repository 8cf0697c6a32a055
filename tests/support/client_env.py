"""Environments for clients of other servers, whose dependencies clash with Sightline's."""

from __future__ import annotations

import os
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
    subprocess.run(command, check=True, timeout=_TIMEOUT_S, env=os.environ | _index())
    return python


def _index() -> dict[str, str]:
    """Return the variable that tells uv which mirror pip uses, because uv ignores pip's settings."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    mirror = os.environ.get("PIP_INDEX_URL") or subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {"UV_DEFAULT_INDEX": mirror} if mirror and "UV_DEFAULT_INDEX" not in os.environ else {}

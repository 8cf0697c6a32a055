"""Runs the command sightline as a user does, in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SIGHTLINE = [sys.executable, "-m", "serve_app.cli"]


def sightline(*arguments: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command with these arguments and with these additional environment variables, and wait for its end."""
    command = [*SIGHTLINE, *map(str, arguments)]
    env = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env, cwd=cwd)

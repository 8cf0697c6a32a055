"""Tests of how ``python -m serve_app`` reads configs in locales other than UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0"}


def refusal(config: Path, **variables: str) -> str:
    """Run the command with a config that it must refuse, and return what it prints."""
    command = [sys.executable, "-m", "serve_app", str(config)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, b"")
    return done.stderr.decode()


@pytest.mark.parametrize("variables", [ASCII, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_a_config_is_read_as_utf_8_in_any_locale(tmp_path: Path, variables: dict[str, str]) -> None:
    config = tmp_path / "Prüfstand.yaml"
    config.write_text("applications: [{import_path: a:b, Prüfung: 1}]", encoding="utf-8")
    sentence = f"{config}: Serve has no setting applications.Prüfung: remove or correct it\n"
    assert refusal(config, **variables) == sentence


def test_characters_that_the_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    config = tmp_path / "Prüfstand.yaml"
    assert refusal(config, PYTHONIOENCODING="ascii").startswith(
        f"{tmp_path}/Pr\\xfcfstand.yaml cannot be read: No such"
    )


def test_the_command_does_not_restart_itself_forever(tmp_path: Path) -> None:
    """The command restarts itself with PYTHONUTF8=1. With -E, Python ignores this variable."""
    command = [sys.executable, "-E", "-X", "utf8=0", "-m", "serve_app", str(tmp_path / "none.yaml")]
    env = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(command, env=env, cwd=Path(__file__).resolve().parents[3], capture_output=True, timeout=120)
    assert b"cannot be read" in done.stderr

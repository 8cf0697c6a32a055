"""Tests of how a config is found, and of the flags that are read from configs/serve.env."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serve_app.cli.configs import find_config, names, ray_flags
from serve_app.errors import ConfigError
from tests.support.paths import ROOT


def test_a_config_is_found_by_its_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("gpu") == ROOT / "configs/gpu.yaml"
    assert names() == ["cluster", "container", "gpu", "local"]


def test_a_file_is_found_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpu").touch()
    assert find_config("gpu") == tmp_path / "gpu"
    assert find_config("my.yaml") == tmp_path / "my.yaml"
    assert find_config("a/gpu") == tmp_path / "a/gpu"


def test_a_wrong_name_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(ConfigError, match="there is no config gppu: use cluster, container, gpu, local, or the path"):
        find_config("gppu")


def test_the_flags_are_those_that_a_shell_reads() -> None:
    script = "set -a; source configs/serve.env; env -0"
    done = subprocess.run(["env", "-i", "bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    sourced = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    assert ray_flags() == {name: value for name, value in sourced.items() if name not in {"PWD", "SHLVL", "PATH", "_"}}

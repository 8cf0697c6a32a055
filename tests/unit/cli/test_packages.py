"""Tests of the checks of ``sightline doctor`` that look at the installed packages."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from serve_app.cli import packages
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_extra_is_known() -> None:
    assert packages.EXTRAS.keys() == PROJECT["optional-dependencies"].keys()
    for extra, module in packages.EXTRAS.items():
        assert module in {Requirement(one).name for one in PROJECT["optional-dependencies"][extra]}


def test_installed_packages_are_named_with_their_version() -> None:
    assert packages.ray().found == version("ray")
    assert f"openvino {version('openvino')}" in packages.engines(set()).found
    assert packages.opencv().mark == "ok"
    assert packages.python().mark == "ok"


def test_an_engine_that_the_config_needs_and_that_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages.ENGINES, "onnx", "no-such-package")
    assert packages.engines({"auto", "openvino", "null"}).mark == "ok"
    finding = packages.engines({"auto", "onnx"})
    assert (finding.mark, finding.fix) == ("missing", "run pip install 'sightline[onnx]'")


def test_extras_that_are_not_installed_are_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "EXTRAS", {"int8": "json", "mqtt": "no_such_module", "redis": "no_such_module"})
    finding = packages.extras()
    assert finding.mark == "ok"
    assert finding.found == "int8 installed; for the others run pip install 'sightline[mqtt,redis]'"


def test_an_opencv_that_cannot_be_imported_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = packages.opencv()
    assert (finding.mark, "libGL.so.1" in finding.found, "libgl1" in finding.fix) == ("missing", True, True)

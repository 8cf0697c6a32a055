"""Tests that each package imports only the packages that ``MAY_IMPORT`` lists, so that no imports are circular."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "serve_app"
MAY_IMPORT = {
    "detections": "",
    "labels": "",
    "types": "detections errors labels",
    "errors": "",
    "thresholds": "",
    "outlines": "detections",
    "keypoints": "",
    "schemas": "detections types errors thresholds",
    "client": "detections types errors thresholds outlines schemas",
    "network": "detections types errors",
    "misspellings": "",
    "sections": "",
    "collect_args": "sections",
    "compat_args": "network sections",
    "detect_args": "types errors sections thresholds",
    "disk": "",
    "config": "detections types errors network misspellings sections collect_args compat_args detect_args",
    "images": "detections types errors outlines keypoints config",
    "ipc": "detections types errors config",
    "collection": "detections types collect_args disk images",
    "overload": "detections types errors config",
    "models": "detections types errors disk network config images",
    "inference": "detections types errors config images ipc models",
    "telemetry": "detections types errors config schemas",
    "api": "detections types errors compat_args disk config schemas network overload telemetry",
    "video": "detections types errors network images",
    "sinks": "detections types errors schemas network",
    "drift": "detections types errors config schemas network ipc sinks",
    "streams": (
        "detections types errors thresholds keypoints config schemas network images ipc collection overload telemetry "
        "video sinks"
    ),
    "jobs": (
        "detections types errors outlines keypoints config schemas disk network images ipc overload telemetry video "
        "sinks"
    ),
}
RAY_PACKAGES = {"deployments", "app", "cli", "__main__"}  # these packages may import Ray, and also all of our packages
ENGINE_LIBRARIES = {"torch", "openvino", "ultralytics", "onnx", "onnxruntime", "tensorrt"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def package_of(path: Path) -> str:
    """Return the name of the package or top-level module of ``serve_app`` that contains a file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the full names of everything that a file imports, including imports inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports must be absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_rules_cover_every_package() -> None:
    assert {package_of(path) for path in FILES} == MAY_IMPORT.keys() | RAY_PACKAGES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_package_imports_only_the_packages_that_it_may(path: Path) -> None:
    package = package_of(path)
    own = {name.split(".")[1] for name in imported(path) if name.startswith("serve_app.")} - {"__version__"}
    if package not in RAY_PACKAGES:
        assert own <= {package, *MAY_IMPORT[package].split()}
        assert "ray" not in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_engines_import_engine_libraries(path: Path) -> None:
    if "models/engines" not in str(path):
        assert not {name.split(".")[0] for name in imported(path)} & ENGINE_LIBRARIES


def test_deployments_import_neither_the_application_nor_the_command() -> None:
    for path in (PACKAGE / "deployments").glob("*.py"):
        assert not {name for name in imported(path) if name.startswith(("serve_app.app", "serve_app.cli"))}

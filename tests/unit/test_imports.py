"""Imports point one way: a package imports only from packages that stand before it in the plan."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "serve_app"
MAY_IMPORT = {
    "types": "errors",
    "errors": "",
    "schemas": "types errors",
    "client": "types errors schemas",
    "network": "types errors",
    "config": "types errors network",
    "images": "types errors config",
    "ipc": "types errors config",
    "overload": "types errors config",
    "models": "types errors config images",
    "inference": "types errors config images ipc models",
    "telemetry": "types errors config schemas",
    "api": "types errors config schemas network overload telemetry",
    "streams": "types errors config schemas network images ipc telemetry",
}
RAY_WING = {"deployments", "app", "cli", "__main__"}  # what may import Ray, and everything of ours
ENGINE_LIBRARIES = {"torch", "openvino", "ultralytics", "onnx", "onnxruntime", "tensorrt"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def package_of(path: Path) -> str:
    """The package, or the module at the top, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The full names of what a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_plan_knows_every_package() -> None:
    assert {package_of(path) for path in FILES} == MAY_IMPORT.keys() | RAY_WING


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_package_imports_only_from_packages_before_it(path: Path) -> None:
    package = package_of(path)
    own = {name.split(".")[1] for name in imported(path) if name.startswith("serve_app.")} - {"__version__"}
    if package not in RAY_WING:
        assert own <= {package, *MAY_IMPORT[package].split()}
        assert "ray" not in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_engine_libraries_stay_in_the_engines(path: Path) -> None:
    if "models/engines" not in str(path):
        assert not {name.split(".")[0] for name in imported(path)} & ENGINE_LIBRARIES


def test_deployments_know_neither_the_application_nor_the_command() -> None:
    for path in (PACKAGE / "deployments").glob("*.py"):
        assert not {name for name in imported(path) if name.startswith(("serve_app.app", "serve_app.cli"))}

"""Imports point one way: each module imports only from those above it in this list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "serve_app"
ORDER = [
    "errors", "types", "guard", "guarded_http", "config", "keys", "letterbox", "headers", "decode", "drawing",
    "preprocess", "quarantine", "shared_memory", "frames", "local_calls", "retries", "throttle", "postprocess",
    "agreement",
    "engines", "engines.metadata", "engines.ultralytics", "engines.openvino", "engines.onnx",
    "engines.device", "engines.torch", "engines.tensorrt", "engines.simulated", "exports", "models",
    "fair_queue", "batcher", "served_model",
    "schemas", "stream_schemas", "telemetry",
    "api.pipeline", "api.errors", "api.fetcher", "api.bodies", "api.access", "api.detect", "api.streams", "api.health",
    "api.models", "api.docs",
    "api", "edge", "serving",
    "streams", "streams.source",
    "streams.sinks.outlet", "streams.sinks.queue", "streams.sinks.jsonl", "streams.sinks.webhook", "streams.sinks.mqtt",
    "streams.sinks.redis", "streams.sinks", "streams.recording",
    "streams.store", "streams.tracking", "streams.zones", "streams.motion",
    "streams.scene",
    "streams.video", "streams.progress", "streams.capture", "streams.events", "streams.stream", "streams.worker",
    "streams.admission", "streams.supervisor", "streams.client",
    "scaling", "deployments", "app", "preflight", "__main__",
]  # fmt: skip
RAY = {
    "preflight",
    "__main__",
    "serving",
    "streams.worker",
    "streams.supervisor",
    "streams.client",
    "scaling",
    "deployments",
    "app",
}
ENGINE_LIBRARIES = {"torch", "openvino", "ultralytics", "onnx", "onnxruntime", "tensorrt"}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)


def imports(module: str) -> set[str]:
    """Full names of the modules that a module imports, anywhere in it."""
    path = PACKAGE / Path(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(name: str) -> str | None:
    """The module of ours that an imported name is in."""
    parts = name.removeprefix("serve_app.").split(".")
    candidates = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((module for module in candidates if module in ORDER), None) if name.startswith("serve_app.") else None


def test_the_list_is_complete() -> None:
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_above(module: str) -> None:
    below = {other for name in imports(module) if (other := own(name)) and ORDER.index(other) >= ORDER.index(module)}
    assert below == set()


@pytest.mark.parametrize("module", sorted(set(MODULES) - RAY))
def test_ray_stays_in_the_shells(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] == "ray"}


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("engines")])
def test_engine_libraries_stay_in_engines(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] in ENGINE_LIBRARIES}

"""Tests of the client in an environment with httpx, pydantic and numpy, but without the server's dependencies."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import Distribution, distribution
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serve_app.images.decode import decode
from tests.integration.conftest import LONG_TIMEOUT_S, install_wheel
from tests.support.stream_server import serve_streams

NOT_LOADED = {"numpy", "ray", "torch", "cv2", "yaml", "rich", "fastapi", "starlette", "supervision", "PIL"}

USE = """
import json, sys
import numpy as np
from serve_app.client import ApiError, Client, NotFoundError

with Client(sys.argv[1]) as client:
    results = [client.detect(image) for image in (sys.argv[2], open(sys.argv[2], "rb").read())]
    results.append(client.detect(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)))
    try:
        results[0].to_supervision()
    except ImportError as exc:
        sentence = str(exc)
    first, bad = client.detect_many([sys.argv[2], b"bad"])
    client.streams.create({"id": "lot", "source": {"uri": "rtsp://camera/1"}})
    client.streams.delete("lot")
    try:
        next(client.streams.events("lot"))
    except NotFoundError as exc:
        gone = exc.code
print(json.dumps([[one.labels, one.xyxy.shape] for one in results] + [sentence, bad.code, gone]))
"""


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that has only the wheel, the three packages and their dependencies."""
    python, packages = install_wheel(built, tmp_path_factory.mktemp("light") / "venv")
    for package in needed("httpx", "pydantic", "numpy").values():
        for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            (packages / name).symlink_to(Path(str(package.locate_file(name))))
    return python


def needed(*names: str) -> dict[str, Distribution]:
    """Return the packages with these names, and all their dependencies, by name."""
    found: dict[str, Distribution] = {}
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found[name] = distribution(name)
            requirements = map(Requirement, found[name].requires or ())
            left += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def run(python: Path, code: str, *arguments: str | Path) -> str:
    """Run Python code outside the checkout, and return its output."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", env=env, timeout=LONG_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_client_does_not_import_the_servers_dependencies(python: Path) -> None:
    code = "import json, sys, serve_app.client; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    assert set(json.loads(run(python, code))) & NOT_LOADED == set()


def test_the_client_works_with_only_three_packages(python: Path, tmp_path: Path) -> None:
    pixels = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    with serve_streams() as served:
        *results, sentence, bad, gone = json.loads(run(python, USE, served.url, tmp_path / "a.png"))
        pictures = served.backend.pictures
    assert results == [[["dog"], [1, 4]]] * 3
    assert all((decode(picture, 10**6) == pixels).all() for picture in pictures[:3])
    assert "pip install supervision" in sentence
    assert (bad, gone) == ("undecodable", "not_found")

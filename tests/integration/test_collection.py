"""Tests of the images that a real service keeps for training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from ray import serve

from scripts.launch import is_ready
from serve_app.app import build_app
from tests.integration.conftest import (
    LONG_TIMEOUT_S,
    Service,
    delete_stream,
    eventually,
    metrics,
    start_stream,
    stream_ids,
    stream_status,
)
from tests.support import squares
from tests.support.squares import Square

RED, GREEN = Square("red", 4, 4), Square("green", 20, 20)


def striped(*found: Square) -> np.ndarray:
    """Draw squares with rows of two brightnesses, so that a blur is visible. The model's confidence is 0.44."""
    pixels = squares.picture(list(found))
    pixels[::2] = (pixels[::2] * (219 / 255)).astype(np.uint8)
    return pixels


def stripes_of(pixels: np.ndarray, square: Square) -> float:
    """Return how much neighbouring rows differ inside a square."""
    left, top, right, bottom = square.box
    inside = pixels[top + 4 : bottom - 4, left + 4 : right - 4].max(axis=2).astype(float)
    return float(np.abs(np.diff(inside, axis=0)).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def url(service: Service, folder: Path) -> Iterator[str]:
    """Run a second application, which keeps uncertain images and blurs green squares."""
    collect = {"folder": str(folder), "blur": "green", "max_per_minute": 6000}
    drift = {"reference_images": 200, "window_images": 50}
    serve.run(
        build_app(service.args | {"collect": collect, "drift": drift}), name="collecting", route_prefix="/collecting"
    )
    url = f"{service.url}/collecting"
    eventually(lambda: is_ready(url), what="readiness")
    yield url
    for stream_id in stream_ids(url):
        delete_stream(url, stream_id)
    serve.delete("collecting")


def detect(url: str, pixels: np.ndarray, **query: Any) -> int:
    """Send an image, and return the number of detections."""
    answer = httpx.post(f"{url}/detect", content=squares.encode(pixels), params=query, timeout=LONG_TIMEOUT_S)
    count: int = answer.raise_for_status().json()["count"]
    return count


def kept(folder: Path, reason: str, source: str) -> list[Path]:
    return sorted(folder.glob(f"*/images/*-{reason}-{source}-*.jpg"))


def test_uncertain_images_are_kept_blurred_and_can_be_exported(
    url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert detect(url, squares.picture([RED, GREEN])) == 2
    eventually(lambda: kept(folder, "new_class", "http"), what="the image of new classes")
    assert detect(url, squares.picture([RED, GREEN])) == 2  # certain, and of known classes
    assert detect(url, striped(RED, GREEN), classes="red") == 1  # the green square would not be blurred
    assert detect(url, striped(RED, GREEN)) == 2
    (path,) = eventually(lambda: kept(folder, "uncertain", "http"), what="the uncertain image")
    assert len(kept(folder, "*", "http")) == 2

    picture = cv2.imread(str(path))
    assert picture is not None
    assert stripes_of(picture, RED) > 8
    assert stripes_of(picture, GREEN) < 2
    (label,) = folder.glob(f"*/labels/{path.stem}.txt")
    rows = [line.split() for line in label.read_text().splitlines()]
    assert sorted((row[0], len(row)) for row in rows) == [("0", 6), ("1", 6)]
    assert all(0.3 < float(row[5]) < 0.6 for row in rows)

    wanted = {
        "ray_sightline_collected_images_total{": 'reason="uncertain"',
        "ray_sightline_collect_drops_total{": 'reason="cannot_blur"',
    }
    eventually(
        lambda: all(any(a in line and b in line for line in metrics().splitlines()) for a, b in wanted.items()),
        what="the metrics",
    )

    command = [sys.executable, "-m", "serve_app.cli", "collect", "export", str(folder), str(tmp_path / "dataset")]
    subprocess.run(command, check=True, timeout=LONG_TIMEOUT_S)
    from ultralytics.data import utils

    monkeypatch.setattr(utils, "check_font", lambda name: None)  # it would download a font
    dataset = utils.check_det_dataset(str(tmp_path / "dataset/data.yaml"))
    assert dataset["names"] == dict(enumerate(squares.LABELS))
    pictures = [path for part in ("train", "val") for path in Path(dataset[part]).glob("*.jpg")]
    assert len(pictures) == 2


@pytest.mark.only_with_chaos  # the process asks only twice a minute which sources drift
def test_images_of_a_drifting_source_are_kept(url: str, folder: Path) -> None:
    """The first images, which are the reference, are black with one square. The others are grey with five squares."""
    dark, bright = squares.picture([RED]), squares.picture([Square("red", 4, 5 * row) for row in range(5)])
    bright[bright.max(axis=2) == 0] = 120
    for _ in range(220):
        detect(url, dark)
    eventually(lambda: detect(url, bright) and drifts(url), what="the drift")
    eventually(lambda: detect(url, bright) and kept(folder, "drifted", "http"), what="an image of the drift")


def drifts(url: str) -> bool:
    """Return whether the requests without a key drift."""
    sources = httpx.get(f"{url}/drift", timeout=LONG_TIMEOUT_S).raise_for_status().json()["sources"]
    return [one["state"] for one in sources if one["source"] == "http"] == ["drifting"]


def test_frames_of_a_stream_are_kept_unless_its_specification_says_otherwise(
    url: str, folder: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.png").write_bytes(squares.encode(striped(RED)))
    for stream_id, fields in (("private", {"collect": False}), ("lot", {})):
        start_stream(url, pictures, stream_id=stream_id, **fields)
        eventually(lambda name=stream_id: stream_status(url, name).state == "completed", what="its end")  # type: ignore[misc]
    eventually(lambda: kept(folder, "*", "lot"), what="a frame of the stream")
    assert kept(folder, "*", "private") == []

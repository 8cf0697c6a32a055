"""A parity test of the whole service with real weights. HTTP requests and a stream share batches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from ray import serve
from ultralytics import YOLO

from scripts.launch import is_ready
from serve_app.app import build_app
from serve_app.schemas.detect import InputSize
from serve_app.schemas.streams import StreamResult
from serve_app.types import Json
from tests.conftest import needs_shared
from tests.integration.conftest import LONG_TIMEOUT_S, Service, delete_stream, eventually, start_stream, stream_results
from tests.parity.pictures import shipped
from tests.parity.reference import CONFIDENCE_TOLERANCE, THRESHOLD, Found, disagreements, predict
from tests.support.paths import SHARED

pytestmark = needs_shared

# The folder has a fixed size of the model input. The checkpoint takes any size, so it gets rectangles.
# tests/parity/ also compares the boxes of a checkpoint.
WEIGHTS = ["yolov8n_int8_openvino_model", pytest.param("yolov8n.pt", marks=pytest.mark.only_with_chaos)]
VIDEO = SHARED / "videos" / "car-detection.mp4"
CONFIDENCE = round(THRESHOLD - CONFIDENCE_TOLERANCE, 2)


@pytest.fixture(params=WEIGHTS)
def weights(request: pytest.FixtureRequest) -> Path:
    return SHARED / "weights" / str(request.param)


@pytest.fixture
def photos_url(service: Service, stream_folders: dict[str, str], weights: Path, tmp_path: Path) -> Iterator[str]:
    """Run a second application with real weights."""
    args = {
        "model": {"weights": str(weights), "cache_dir": str(tmp_path / "cache")},
        "streams": stream_folders | {"media_dirs": str(VIDEO.parent)},
    }
    serve.run(build_app(args), name="photos", route_prefix="/photos")
    url = f"{service.url}/photos"
    eventually(lambda: is_ready(url), what="readiness")
    yield url
    serve.delete("photos")


def found_in(detections: list[Json]) -> list[Found]:
    return [
        Found(detection["label"], detection["confidence"], tuple(detection["bbox"].values()))
        for detection in detections
    ]


def predicted(model: YOLO, picture: Path | np.ndarray, size: InputSize | None) -> list[Found]:
    """Return what Ultralytics finds if it letterboxes the image to this size."""
    assert size is not None
    return predict(model, picture, size_px=(size.height, size.width))


def test_photographs_and_frames_are_detected_as_ultralytics_does(photos_url: str, weights: Path) -> None:
    photographs = [*sorted(SHARED.glob("images/*.jpg")), *shipped()]
    start_stream(photos_url, VIDEO, detect={"confidence": CONFIDENCE})
    seen: dict[int, StreamResult] = {}

    async def watch() -> None:
        seen.update((result.frame_id, result) for result in await asyncio.to_thread(stream_results, photos_url, 40))

    async def client(http: httpx.AsyncClient, start: int) -> list[tuple[Path, Json]]:
        order = photographs[start:] + photographs[:start]
        return [
            (path, (await http.post("/detect", params={"confidence": CONFIDENCE}, content=path.read_bytes())).json())
            for path in order
        ]

    async def run() -> list[tuple[Path, Json]]:
        async with httpx.AsyncClient(base_url=photos_url, timeout=LONG_TIMEOUT_S) as http:
            answers, _ = await asyncio.gather(asyncio.gather(*(client(http, start) for start in range(8))), watch())
        return [answer for one in answers for answer in one]

    answers = asyncio.run(run())
    delete_stream(photos_url)
    assert max(body["timing_ms"]["queue"] for _, body in answers) > 1  # some requests had to wait in the queue

    sizes = {path: InputSize.model_validate(body["input"]) for path, body in answers}
    is_square = weights.suffix != ".pt"
    assert len({(size.width, size.height) for size in sizes.values()}) == (1 if is_square else 4)

    reference = YOLO(weights, task="detect")
    expected = {path: predicted(reference, path, sizes[path]) for path in photographs}
    wrong = [(path.name, disagreements(found_in(body["detections"]), expected[path])) for path, body in answers]
    assert [(name, differences) for name, differences in wrong if differences] == []

    frames = read_frames(max(seen) + 1)
    for frame_id, result in seen.items():
        ours = found_in([detection.model_dump() for detection in result.detections])
        theirs = predicted(reference, frames[frame_id], result.input)
        assert disagreements(ours, theirs) == [], f"frame {frame_id}"


def read_frames(count: int) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(VIDEO))
    frames = [capture.read()[1] for _ in range(count)]
    capture.release()
    return frames

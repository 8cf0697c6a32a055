"""Tests that the documents for CloudWatch have the counts of the metric."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    workers,
)
from tests.support import squares
from tests.support.videos import save_video

NAME = "counted"
FRAMES = 30  # each of them has one red square


@pytest.fixture
def url(service: Service, tmp_path: Path) -> Iterator[str]:
    """Run a second application, which writes its counts to a file."""
    streams = {"state_dir": str(tmp_path / "state"), "media_dirs": str(tmp_path)}
    args = service.args | {"streams": streams, "telemetry": {"cloudwatch": str(tmp_path / "counts.jsonl")}}
    serve.run(build_app(args), name=NAME, route_prefix=f"/{NAME}")
    url = f"{service.url}/{NAME}"
    eventually(lambda: is_ready(url), what="readiness")
    yield url
    for stream_id in stream_ids(url):
        delete_stream(url, stream_id)
    serve.delete(NAME)


def send(url: str, count: int, seed: int) -> Counter[str]:
    """Send images of random squares, and return the numbers of detections by label."""
    rng = np.random.default_rng(seed)
    bodies = [squares.encode(squares.picture(squares.random_squares(rng, 5))) for _ in range(count)]

    def post(body: bytes) -> Counter[str]:
        answer = httpx.post(f"{url}/detect", content=body, timeout=LONG_TIMEOUT_S).raise_for_status().json()
        return Counter(found["label"] for found in answer["detections"])

    with ThreadPoolExecutor(4) as clients:
        return sum(clients.map(post, bodies), Counter())


def in_metrics() -> Counter[str]:
    """Return the metric of this application's detections, by label."""
    total: Counter[str] = Counter()
    for line in metrics().splitlines():
        if line.startswith("ray_sightline_detections_total{") and f'application="{NAME}"' in line:
            label = re.search(r'label="(\w+)"', line)
            assert label
            total[label[1]] += int(float(line.rpartition(" ")[2]))
    return total


def in_documents(file: Path) -> Counter[str]:
    """Return the sums of all documents, by label."""
    total: Counter[str] = Counter()
    for line in file.read_text().splitlines() if file.exists() else []:
        for name, value in json.loads(line).items():
            if name.startswith("detections_"):
                total[name.removeprefix("detections_")] += value
    return total


def reported(url: str) -> int:
    """Return how many images of requests the DriftMonitor knows."""
    sources = httpx.get(f"{url}/drift", timeout=LONG_TIMEOUT_S).raise_for_status().json()["sources"]
    return sum(one["reference"]["images"] + one["window_images"] for one in sources if one["source"] == "http")


@pytest.mark.only_with_chaos  # the documents are those of whole minutes
def test_documents_have_the_counts_of_the_metric_although_a_replica_is_killed(url: str, tmp_path: Path) -> None:
    start_stream(url, save_video(tmp_path / "squares.avi", frames=FRAMES, fps=20))
    sent = send(url, 40, seed=1) + Counter(red=FRAMES)
    # A process that is killed loses what it has not reported yet.
    eventually(lambda: reported(url) == 40, what="the report of the Preprocessor")
    (preprocessor,) = workers(f"ServeReplica:{NAME}:Preprocessor")
    preprocessor.kill()
    sent += send(url, 20, seed=2)
    eventually(lambda: in_metrics() == sent, what="the metric")
    eventually(lambda: in_documents(tmp_path / "counts.jsonl") == sent, what="the documents")

"""Tests that drift counts every image once while processes are killed and restarted, with two Preprocessors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
import pytest
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from scripts.launch import is_ready
from scripts.trials.cluster import Cluster
from tests.integration.conftest import LONG_TIMEOUT_S, Service, client_for, eventually

NAME = "drifting"
PICTURE = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the images of a stream, and return their folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(PICTURE)
    return folder


@pytest.fixture(scope="module")
def url(service: Service, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run an application of its own, whose state no other test changes, and yield its URL."""
    folder = tmp_path_factory.mktemp("drift")
    application = {
        "name": NAME,
        "route_prefix": f"/{NAME}",
        "import_path": "serve_app.app:build_app",
        "args": {
            "model": {"engine": "null"},
            "drift": {"reference_images": 200, "window_images": 50},
            "streams": {"media_dirs": str(pictures), "state_dir": str(folder / "state")},
        },
        "deployments": [{"name": "Preprocessor", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}}],
    }
    _get_global_client().deploy_apps(ServeDeploySchema(applications=[application]))
    url = f"{service.url}/{NAME}"
    eventually(lambda: is_ready(url), what="readiness")
    eventually(lambda: len(replicas("Preprocessor")) == 2, what="two Preprocessors")
    yield url
    serve.delete(NAME)


def replicas(deployment: str) -> list[psutil.Process]:
    return Cluster("", os.getpid()).processes(f"ServeReplica:{NAME}:{deployment}")


def kill(deployment: str) -> None:
    """Kill all replicas of a deployment, and wait until as many run again."""
    before = replicas(deployment)
    for process in before:
        process.kill()
    eventually(
        lambda: len(replicas(deployment)) == len(before) and not set(before) & set(replicas(deployment)),
        what=f"new {deployment}s",
    )


def send(url: str, count: int) -> None:
    with httpx.Client(timeout=LONG_TIMEOUT_S) as client:
        for _ in range(count):
            client.post(f"{url}/detect", content=PICTURE).raise_for_status()


def measured(url: str) -> int:
    """Return how many images of requests drift has measured so far, all of which belong to the reference."""
    with client_for(url) as client:
        return sum(one.reference.images for one in client.drift() if one.source == "http" and one.reference)


@pytest.mark.parametrize("victim", ["DriftMonitor", "Preprocessor", "Detector"])
def test_every_image_counts_once_whatever_is_killed(url: str, victim: str) -> None:
    before = measured(url)
    send(url, 15)
    eventually(lambda: measured(url) == before + 15, what="the reports of both Preprocessors")
    kill(victim)
    assert eventually(lambda: measured(url), what="the monitor") == before + 15
    send(url, 15)
    eventually(lambda: measured(url) == before + 30, what="the reports after the kill")


def test_a_report_that_no_monitor_takes_waits_for_the_next_monitor(url: str) -> None:
    before = measured(url)
    for process in replicas("DriftMonitor"):
        process.kill()
    send(url, 15)
    eventually(lambda: measured(url) == before + 15, what="the reports")


def test_the_frames_of_a_stream_are_a_source_of_their_own(url: str, pictures: Path) -> None:
    with client_for(url) as client:
        client.streams.create({"id": "lot", "source": {"uri": str(pictures)}})
        eventually(lambda: client.streams.status("lot").state == "completed", what="the end of the stream")
        eventually(lambda: [one for one in client.drift() if one.source == "stream/lot"], what="the stream's drift")
        client.streams.delete("lot")

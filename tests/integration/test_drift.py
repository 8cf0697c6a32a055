"""Tests of drift in a running service with two Preprocessors.

Every image counts once while processes and a node are killed, and a shift is reported in every documented way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest
import standardwebhooks
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from scripts.launch import is_ready
from scripts.trials.cluster import Cluster
from scripts.trials.field.videos.servers import sends, serving
from scripts.trials.node import kill_all, second_node
from serve_app.schemas.drift import SourceDrift
from serve_app.types import DetectParams, PictureRequest
from tests.integration.conftest import (
    LONG_TIMEOUT_S,
    Service,
    client_for,
    delete_stream,
    eventually,
    metrics,
    start_stream,
    stream_status,
)
from tests.support.sinks import SECRET

NAME = "drifting"
REFERENCE_IMAGES, WINDOW_IMAGES = 300, 50
NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
PICTURE = cv2.imencode(".jpg", NOISE)[1].tobytes()
DARK_PICTURE = cv2.imencode(".jpg", NOISE // 8)[1].tobytes()


class Hook(ThreadingHTTPServer):
    """A web server that records the requests of a webhook."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _HookHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def events(self, path: str) -> list[dict[str, Any]]:
        """Return the events of all requests to a path. Raise an error if a signature is wrong."""
        requests = [(headers, body) for to, headers, body in self.received if to == path]
        verified = [standardwebhooks.Webhook(SECRET).verify(body, headers) for headers, body in requests]
        return [event for each in verified for event in each["events"]]


class _HookHandler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the images of a stream, and return their folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(PICTURE)
    return folder


@pytest.fixture(scope="module")
def application(pictures: Path, hook: Hook, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the entry in a Serve config of an application of its own, whose state no other test changes."""
    state = tmp_path_factory.mktemp("drift") / "state"
    return {
        "name": NAME,
        "route_prefix": f"/{NAME}",
        "import_path": "serve_app.app:build_app",
        "args": {
            "model": {"engine": "null"},
            "drift": {
                "reference_images": REFERENCE_IMAGES,
                "window_images": WINDOW_IMAGES,
                "stream_interval_s": 0,
                "webhook_url": f"{hook.url}/drift",
                "webhook_secret": SECRET,
            },
            "outbound": {"allowed_networks": "127.0.0.0/8"},
            "streams": {"media_dirs": str(pictures), "state_dir": str(state)},
        },
        "deployments": [{"name": "Preprocessor", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}}],
    }


@pytest.fixture(scope="module")
def url(service: Service, application: dict[str, Any]) -> Iterator[str]:
    """Run the application, and yield its URL."""
    deploy(application)
    url = f"{service.url}/{NAME}"
    eventually(lambda: is_ready(url), what="readiness")
    eventually(lambda: len(replicas("Preprocessor")) == 2, what="two Preprocessors")
    yield url
    serve.delete(NAME)


def deploy(application: dict[str, Any]) -> None:
    _get_global_client().deploy_apps(ServeDeploySchema(applications=[application]))


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


def send(url: str, count: int, picture: bytes = PICTURE) -> None:
    with httpx.Client(timeout=LONG_TIMEOUT_S) as client:
        for _ in range(count):
            client.post(f"{url}/detect", content=picture).raise_for_status()


def drift(url: str, source: str) -> SourceDrift | None:
    """Return the drift of a source, or None if no image of it was seen."""
    with client_for(url) as client:
        return next((one for one in client.drift() if one.source == source), None)


def answering_detectors(url: str) -> int:
    """Return the number of Detectors whose figures the overview has."""
    with httpx.Client(timeout=LONG_TIMEOUT_S) as client:
        count: int = client.get(f"{url}/overview").json()["models"][0]["replicas"]
    return count


def measured(url: str, source: str = "http") -> int:
    """Return how many images of a source drift has measured so far, if all of them belong to the reference."""
    one = drift(url, source)
    return one.reference.images if one and one.reference else 0


@pytest.mark.only_with_chaos  # the unit tests of the reporter and of the store cover reports that are repeated
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


@pytest.mark.only_with_chaos  # takes a minute; the tests above, in which processes die, need no --chaos
def test_a_node_that_dies_counts_nothing_twice_and_the_reference_is_kept(
    url: str, service: Service, application: dict[str, Any], tmp_path: Path
) -> None:
    """Each of two nodes has a Preprocessor, a Detector and a stream's process. The monitor is on the first node."""
    spread = {"num_replicas": 2, "max_replicas_per_node": 1, "ray_actor_options": {"num_cpus": 0.1}}
    with second_node(Cluster(service.url, os.getpid()), tmp_path / "node.log") as node:
        there = Cluster(service.url, node.pid)
        deploy(application | {"deployments": [{"name": name, **spread} for name in ("Preprocessor", "Detector")]})
        for name in ("Preprocessor", "Detector"):
            eventually(lambda n=name: there.processes(f"ServeReplica:{NAME}:{n}"), what=f"a {name} there")  # type: ignore[misc]
        eventually(lambda: is_ready(url), what="readiness")
        eventually(lambda: answering_detectors(url) == 2, what="the figures of the Detectors of both nodes")
        before = measured(url)
        call_both_preprocessors(60)
        eventually(lambda: there.total("sightline_images"), what="images that the second node has answered")
        eventually(lambda: measured(url) == before + 60, what="the reports of both nodes")
        names = ("one", "two")
        with serving({"/cam": sends(PICTURE, Content_Type="image/jpeg")}) as camera:
            for name in names:
                start_stream(url, f"{camera.url}/cam", max_fps=2, stream_id=name)
            eventually(lambda: len(there.workers()) == 1, what="a stream on the second node")
            for name in names:
                eventually(lambda n=name: measured(url, f"stream/{n}"), what="the first report of a stream")  # type: ignore[misc]
            known = {name: measured(url, f"stream/{name}") for name in names}
            kill_all(node)
            eventually(lambda: sum(stream_status(url, name).restarts for name in names) == 1, what="the restart")
            for name in names:
                eventually(lambda n=name: measured(url, f"stream/{n}") > known[n] + 5, what="further reports")  # type: ignore[misc]
                counted = measured(url, f"stream/{name}")
                assert counted <= stream_status(url, name).processed
        send(url, 15)
        eventually(lambda: measured(url) == before + 75, what="the reports of the first node")
        for name in names:
            delete_stream(url, name)
    deploy(application)
    eventually(lambda: is_ready(url) and len(replicas("Preprocessor")) == 2, what="two Preprocessors on the first node")


def test_the_frames_of_a_stream_are_a_source_of_their_own(url: str, pictures: Path) -> None:
    with client_for(url) as client:
        client.streams.create({"id": "lot", "source": {"uri": str(pictures)}})
        eventually(lambda: client.streams.status("lot").state == "completed", what="the end of the stream")
        eventually(lambda: [one for one in client.drift() if one.source == "stream/lot"], what="the stream's drift")
        client.streams.delete("lot")


def test_a_shift_is_named_in_the_drift_the_metric_the_webhook_and_the_events_of_a_stream(url: str, hook: Hook) -> None:
    """The images of the requests and of a camera become dark."""
    answers = {"/cam": sends(PICTURE, Content_Type="image/jpeg")}
    with serving(answers) as camera:
        sink = {"type": "webhook", "url": f"{hook.url}/gate", "secret": SECRET, "events": ["drift"]}
        start_stream(url, f"{camera.url}/cam", max_fps=50, stream_id="gate", sinks=[sink])
        send(url, REFERENCE_IMAGES - measured(url))
        eventually(lambda: state_of(url, "http") == "collecting", what="the reference of the requests")
        send(url, WINDOW_IMAGES)
        for source in ("http", "stream/gate"):
            eventually(lambda s=source: state_of(url, s) == "steady", what=f"the figures of {source}")  # type: ignore[misc]
        assert set(psi_in_metrics().values()) <= {0.0}
        assert hook.received == []

        answers["/cam"] = sends(DARK_PICTURE, Content_Type="image/jpeg")
        eventually(lambda: drifts_after(url, WINDOW_IMAGES, DARK_PICTURE), what="the drift of the requests")
        eventually(lambda: state_of(url, "stream/gate") == "drifting", what="the drift of the stream")
        for source in ("http", "stream/gate"):
            found = drift(url, source)
            assert found is not None
            assert found.drifting[0] == "brightness"
            assert "size" not in found.drifting
            figure = found.features["brightness"]
            assert figure.psi is not None
            assert figure.limit is not None
            assert figure.psi > figure.limit
        eventually(lambda: {"http", "stream/gate"} <= began_at(hook, "/drift").keys(), what="the webhook of drift")
        change = eventually(lambda: began_at(hook, "/gate").get("stream/gate"), what="the event at the stream's sink")
        assert (change["stream_id"], change["features"][0]) == ("gate", "brightness")
        assert change["psi"] == began_at(hook, "/drift")["stream/gate"]["psi"]
        eventually(lambda: [psi > 0.5 for psi in psi_in_metrics().values()] == [True, True], what="the metric")
        delete_stream(url, "gate")
    eventually(lambda: drift(url, "stream/gate") is None, what="the end of the deleted stream's drift")


def began_at(hook: Hook, path: str) -> dict[str, dict[str, Any]]:
    """Return the events at a path that say that a drift began, by source."""
    return {event["source"]: event for event in hook.events(path) if event["change"] == "began"}


def drifts_after(url: str, count: int, picture: bytes) -> bool:
    """Send an image some times, and return whether the requests drift."""
    send(url, count, picture)
    return state_of(url, "http") == "drifting"


def state_of(url: str, source: str) -> str | None:
    found = drift(url, source)
    return found.state if found else None


def psi_in_metrics() -> dict[str, float]:
    """Return the metric of the brightness of the requests and of the stream."""
    found = {}
    for source in ("http", "stream/gate"):
        wanted = ("ray_sightline_drift_psi{", f'application="{NAME}"', f'source="{source}"', 'feature="brightness"')
        for line in metrics().splitlines():
            if all(part in line for part in wanted):
                found[source] = float(line.rpartition(" ")[2])
    return found


def call_both_preprocessors(count: int) -> None:
    """Have images detected by the Preprocessors of both nodes. Requests only reach those of the Ingress's node."""
    handle = serve.get_deployment_handle("Preprocessor", NAME)
    request = PictureRequest(PICTURE, DetectParams(), time_left_s=LONG_TIMEOUT_S)
    for response in [handle.detect.remote(request) for _ in range(count)]:
        response.result(timeout_s=LONG_TIMEOUT_S)

"""Fixtures with a real local Ray cluster, a real HTTP server, and the squares model, whose answers are known."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import httpx
import psutil
import pytest
import ray
from ray import serve

from scripts.launch import free_port, is_ready
from scripts.trials.camera import FPS, NoCamera, camera, recorder
from scripts.trials.cluster import APPLICATION, Cluster, frame_pools
from serve_app.app import build_app
from serve_app.client import Client, SightlineError
from serve_app.config import parse_args
from serve_app.deployments.ingress import Ingress
from serve_app.schemas.streams import StreamResult, StreamStatus
from serve_app.types import DEFAULT_MODEL
from tests.support import squares
from tests.support.paths import ROOT
from tests.support.videos import square_of

T = TypeVar("T")

BIN = Path(sys.executable).parent
SLOTS = 64
LONG_TIMEOUT_S = 180.0  # long, because a machine may be many times slower than usual
CAMERA_FRAMES = 30
# Ray reports metrics every 10 s by default. It notices a dead node after five failed checks, one every 3 s by default.
SHORT_INTERVALS = {"metrics_report_interval_ms": 1000, "health_check_period_ms": 500}


def eventually(look: Callable[[], T | None], *, within_s: float = LONG_TIMEOUT_S, what: str = "it") -> T:
    """Call ``look`` until it returns a true value, and return that value. Retry if ``look`` raises SightlineError.

    Raise AssertionError after ``within_s`` seconds.
    """
    expires_at_s = time.monotonic() + within_s
    while time.monotonic() < expires_at_s:
        with suppress(SightlineError):
            if value := look():
                return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {within_s:g} s")


def wait_for_release(before: set[str]) -> None:
    """Wait until shared memory has no files but those in ``before``, which ``frame_pools`` has returned.

    Meanwhile, unit tests in another process may use some for a moment.
    """
    eventually(lambda: frame_pools() <= before, what="the release of the shared memory")


def workers(title: str) -> list[psutil.Process]:
    """Return the processes in the tests' cluster that have this process title, which Ray sets."""
    return Cluster("", os.getpid()).processes(title)


@dataclass(frozen=True)
class Running:
    """A server process that a test started."""

    process: subprocess.Popen[bytes]
    url: str
    stop_signal: signal.Signals
    pools_before: set[str]


async def stop_with_requests_in_flight(running: Running, picture: bytes) -> list[int]:
    """Stop the server while requests are in flight, and return the status code of each request."""
    async with httpx.AsyncClient(base_url=running.url, timeout=LONG_TIMEOUT_S) as client:
        requests = [asyncio.create_task(client.post("/detect", content=picture)) for _ in range(8)]
        await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        running.process.send_signal(running.stop_signal)
        return [response.status_code for response in await asyncio.gather(*requests)]


def client_for(url: str) -> Client:
    """Return a client with the timeout ``LONG_TIMEOUT_S``."""
    return Client(url, timeout_s=LONG_TIMEOUT_S)


def start_stream(
    url: str, source: Path | str, *, loop: bool = False, stream_id: str = "lot", **fields: Any
) -> StreamStatus:
    """Start a stream in the application at ``url``, and return the stream's status."""
    spec = {"id": stream_id, "source": {"uri": str(source), "loop": loop}} | fields
    with client_for(url) as client:
        return client.streams.create(spec)


def stream_status(url: str, stream_id: str = "lot") -> StreamStatus:
    """Return the status of a stream."""
    with client_for(url) as client:
        return client.streams.status(stream_id)


def stream_ids(url: str) -> list[str]:
    """Return the ids of all streams of the application at ``url``."""
    with client_for(url) as client:
        return [stream.stream_id for stream in client.streams.list()]


def delete_stream(url: str, stream_id: str = "lot") -> None:
    """Stop and delete a stream."""
    with client_for(url) as client:
        client.streams.delete(stream_id)


def stream_events(url: str, stream_id: str = "lot", **query: Any) -> Generator[dict[str, Any], None, None]:
    """Yield the events of a stream as they arrive, indefinitely."""
    with client_for(url) as client:
        for event in client.streams.events(stream_id, **query):
            yield json.loads(event.json)


def stream_results(url: str, count: int, stream_id: str = "lot") -> list[StreamResult]:
    """Return the next ``count`` results of a stream."""
    events = stream_events(url, stream_id, types="result")
    results = [StreamResult(**next(events)) for _ in range(count)]
    events.close()
    return results


def metrics() -> str:
    """Return the metrics of all processes of the tests' cluster, or "" if Ray does not answer."""
    (node,) = [one for one in ray.nodes() if one["Alive"]]
    for host in ("127.0.0.1", node["NodeManagerAddress"]):  # perhaps Ray listens only on one of them
        with suppress(httpx.TransportError):
            return httpx.get(f"http://{host}:{node['MetricsExportPort']}/metrics", timeout=LONG_TIMEOUT_S).text
    return ""


def replicas(deployment: str) -> list[psutil.Process]:
    """Return the processes of a deployment's replicas."""
    return Cluster("", os.getpid()).replicas(deployment)


@contextmanager
def rtsp_recorder(file: Path, credentials: str = "") -> Iterator[int]:
    """Run a server to which video is published, and yield its port. Without GStreamer, do as ``rtsp_camera`` does."""
    with skip_without_gstreamer(), recorder(file, credentials) as port:
        yield port


@contextmanager
def skip_without_gstreamer() -> Iterator[None]:
    """If a server of GStreamer does not start, skip the test, or fail it in CI."""
    try:
        yield
    except NoCamera as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))


@contextmanager
def rtsp_camera(pictures: Path, credentials: str = "", fps: int = FPS) -> Iterator[int]:
    """Run a camera and yield its port. If GStreamer is missing, skip the test, or fail it in CI."""
    with skip_without_gstreamer(), camera(pictures, credentials, fps) as port:
        yield port


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the 30 images that a camera sends. The square in each image encodes the image's number."""
    folder = tmp_path_factory.mktemp("camera")
    for number in range(CAMERA_FRAMES):
        cv2.imwrite(str(folder / f"{number}.jpg"), squares.picture([square_of(number)]))
    return folder


@dataclass(frozen=True)
class Service:
    """A running application, and how to reach it."""

    url: str
    address: str  # the Ray cluster's address
    args: dict[str, Any]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=LONG_TIMEOUT_S)

    def deploy(self, args: dict[str, Any] | None = None) -> None:
        """Deploy the application with ``args`` or, by default, ``self.args``. Wait until the application is ready."""
        serve.run(build_app(args or self.args), name=APPLICATION, route_prefix="/")
        eventually(lambda: is_ready(self.url), what="readiness")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and the source distribution, and return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    here = [
        "--no-build-isolation",
        "--python",
        sys.executable,
    ]  # use the installed build tools, because there may be no network
    subprocess.run(
        [BIN / "uv", "build", "--quiet", *here, "--out-dir", folder, ROOT], check=True, timeout=LONG_TIMEOUT_S
    )
    return folder


def install_wheel(built: Path, venv: Path) -> tuple[Path, Path]:
    """Install the wheel without its dependencies in a new environment.

    Return the environment's Python and its folder of packages.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=LONG_TIMEOUT_S)
    (wheel,) = built.glob("*.whl")
    python = venv / "bin/python"
    install: list[str | Path] = [BIN / "uv", "pip", "install", "--quiet", "--no-deps", "--python", python, wheel]
    subprocess.run(install, check=True, timeout=LONG_TIMEOUT_S)
    (packages,) = (venv / "lib").glob("python*/site-packages")
    return python, packages


@pytest.fixture(scope="session")
def others() -> set[str]:
    """Return the frame pools that exist before the tests, and so belong to other clusters on this machine."""
    return frame_pools()


@pytest.fixture(scope="session")
def cluster(others: set[str]) -> Iterator[str]:
    """Run a Ray cluster for the tests, and yield its address."""
    os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = (
        "serve_app.deployments.request_headers:middlewares"  # the same value as in configs/serve.env
    )
    context = ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, _system_config=SHORT_INTERVALS
    )
    yield context.address_info["gcs_address"]
    serve.shutdown()
    wait_for_release(others)
    ray.shutdown()


@pytest.fixture(scope="session")
def stream_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return stream settings with temporary folders, so that no test uses the user's folders."""
    output = tmp_path_factory.mktemp("output")
    media = tmp_path_factory.getbasetemp()
    return {"media_dirs": str(media), "state_dir": str(output / "state"), "output_dir": str(output)}


@pytest.fixture(scope="session")
def service(cluster: str, squares_model: Path, stream_folders: dict[str, str]) -> Service:
    """Run the application with the squares model, whose answers are known."""
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    args = {
        "model": {"weights": str(squares_model), "threads": 1},
        "detect": {"confidence": 0.3},
        "preprocessor": {"slots": SLOTS},
        "streams": stream_folders,
    }
    service = Service(f"http://127.0.0.1:{port}", cluster, args)
    service.deploy()
    return service


@pytest.fixture
def streams(service: Service) -> Iterator[None]:
    """Delete all streams at the end of a test."""
    yield
    for stream_id in stream_ids(service.url):
        delete_stream(service.url, stream_id)


@contextmanager
def ingress_with_keys(service: Service, keys_file: Path, name: str) -> Iterator[str]:
    """Run another Ingress with API keys at the path ``/name``, and yield its URL. It calls the existing replicas."""
    names = ("Preprocessor", "StreamSupervisor", "JobSupervisor", "DriftMonitor")
    behind = (serve.get_deployment_handle(one, APPLICATION) for one in names)
    detectors = {DEFAULT_MODEL: serve.get_deployment_handle("Detector", APPLICATION)}
    args = parse_args(service.args | {"access": {"keys_file": str(keys_file)}})
    ingress = serve.deployment(Ingress, ray_actor_options={"num_cpus": 0.1}).bind(*behind, detectors, args)
    serve.run(ingress, name=name, route_prefix=f"/{name}")
    url = f"{service.url}/{name}"
    eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200, what="readiness")
    yield url
    serve.delete(name)


def delete_jobs(service: Service) -> None:
    """Delete all jobs."""
    with service.client() as client:
        for job in client.get("/jobs").json()["jobs"]:
            client.delete(f"/jobs/{job['job_id']}")

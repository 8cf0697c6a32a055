"""A real local Ray, a real HTTP server, and the model whose answers are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
import ray
from ray import serve

from scripts.server import free_port, is_ready
from serve_app import shared_memory
from serve_app.app import build_app
from serve_app.streams import worker

T = TypeVar("T")
APPLICATION = "sightline"
SLOTS = 64


def eventually(look: Callable[[], T], *, within_s: float = 60.0, what: str = "it") -> T:
    """The first true value that ``look`` returns, looked for until the time is up."""
    expires_s = time.monotonic() + within_s
    while time.monotonic() < expires_s:
        if value := look():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come true within {within_s:g} s")


def frame_pools() -> set[str]:
    """Names of the frame pools in shared memory."""
    return {path.name for path in shared_memory.FOLDER.glob("sightline-*")}


def workers(title: str) -> list[psutil.Process]:
    """The processes of our own cluster that Ray gave this title; it appends the method that one is running."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if (process.cmdline() or [""])[0].partition(".")[0] == f"ray::{title}":
                found.append(process)
        except psutil.Error:
            pass  # it ended while we looked
    return found


def replicas(deployment: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas."""
    return workers(f"ServeReplica:{APPLICATION}:{deployment}")


@dataclass(frozen=True)
class Service:
    """The running application."""

    url: str
    address: str  # of the Ray cluster
    args: dict[str, Any]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def deploy(self, args: dict[str, Any] | None = None) -> None:
        """Deploy the application, or a changed one in its place, and wait until it is ready."""
        serve.run(build_app(args or self.args), name=APPLICATION, route_prefix="/")
        eventually(lambda: is_ready(self.url), what="readiness")


@pytest.fixture(scope="session")
def others() -> set[str]:
    """Frame pools of other clusters on this machine."""
    return frame_pools()


@pytest.fixture(scope="session")
def cluster(others: set[str]) -> Iterator[str]:
    """A Ray of our own; its address."""
    context = ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    serve.shutdown()
    eventually(lambda: frame_pools() <= others, what="an empty shared memory")
    ray.shutdown()


@pytest.fixture(scope="session")
def service(cluster: str, squares_model: Path) -> Service:
    """The application with the known-answer model."""
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    args = {
        "model": {"weights": str(squares_model), "threads": 1},
        "detect": {"confidence": 0.3},
        "preprocessor": {"slots": SLOTS},
    }
    service = Service(f"http://127.0.0.1:{port}", cluster, args)
    service.deploy()
    return service


@pytest.fixture
def streams(service: Service) -> Iterator[None]:
    """No stream outlives its test."""
    yield
    for stream_id in worker.stream_ids():
        worker.stop(stream_id)

"""The Celery door, with a real Redis and a plain Celery client that has none of our code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from celery import Celery, group
from celery.exceptions import TimeoutError as NoResult

from scripts.trials.cluster import APPLICATION
from scripts.trials.task_queue import QUEUE, redis_server
from tests.integration.conftest import LONG_TIMEOUT_S, Service, eventually, workers
from tests.integration.sinks.conftest import executable
from tests.support.buckets import moto_server
from tests.support.paths import ROOT

TASKS = 60


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    executable("redis-server")  # skips the tests if Redis is not installed
    with redis_server() as url:
        yield url


@pytest.fixture(scope="module")
def inlet(service: Service, redis_url: str) -> Iterator[None]:
    """Deploy the application with the Celery door, and without it at the end."""
    celery = {"broker_url": f"{redis_url}/0", "backend_url": f"{redis_url}/1", "queue": QUEUE}
    service.deploy(service.args | {"jobs": {"celery": celery}})
    yield
    service.deploy()


@pytest.fixture
def shop(inlet: None, redis_url: str) -> Iterator[Celery]:
    with Celery(broker=f"{redis_url}/0", backend=f"{redis_url}/1") as shop:
        yield shop
        shop.backend.client.close()


def detect(shop: Celery, path: Path | str, **fields: Any) -> Any:
    return shop.signature("sightline.detect.v1", kwargs={"url": str(path), **fields}, queue=QUEUE)


def test_the_example_of_a_shop_prints_what_the_server_finds(inlet: None, redis_url: str, folder: Path) -> None:
    pictures = [folder / "0000.png", folder / "missing.png"]
    environment = os.environ | {"BROKER": f"{redis_url}/0", "BACKEND": f"{redis_url}/1"}
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "configs/celery/shop.py", *map(str, pictures)],
        env=environment, cwd="/", capture_output=True, text=True, check=True, timeout=LONG_TIMEOUT_S,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{pictures[0]} ")
    assert " 0." in first or " 1." in first
    assert second.startswith(f"{pictures[1]} failed: invalid_source: ")


def test_every_task_has_one_result_although_the_inlet_is_killed(shop: Celery, service: Service, folder: Path) -> None:
    paths = sorted(folder.glob("*.png"))[:TASKS]
    sent = group([detect(shop, path) for path in paths])()
    eventually(lambda: any(result.ready() for result in sent.results), what="a result")
    for process in workers(f"ServeReplica:{APPLICATION}:JobInlet"):
        process.kill()
    answers = sent.get(timeout=LONG_TIMEOUT_S)
    assert [Path(answer["name"]).name for answer in answers] == [path.name for path in paths]
    with service.client() as client:
        for path, answer in zip(paths[:5], answers, strict=False):
            expected = client.post("/detect", content=path.read_bytes()).json()["detections"]
            assert answer["detections"] == expected
        eventually(lambda: client.get("/jobs").json()["jobs"] == [], what="the deletion of the tasks' jobs")


def test_a_task_that_is_sent_twice_is_done_once(shop: Celery, service: Service, folder: Path) -> None:
    job = {"source": {"type": "files", "path": str(folder)}}
    for _ in range(2):
        sent = shop.send_task("sightline.job.v1", kwargs={"job": job}, task_id="night-28", queue=QUEUE)
    status = sent.get(timeout=LONG_TIMEOUT_S)
    assert (status["job_id"], status["state"]) == ("night-28", "completed")
    with service.client() as client:
        assert [one["job_id"] for one in client.get("/jobs").json()["jobs"]] == ["night-28"]


def test_a_job_is_cancelled_by_a_task(shop: Celery, folder: Path) -> None:
    job = {"source": {"type": "files", "path": str(folder)}, "paused": True}
    sent = shop.send_task("sightline.job.v1", kwargs={"job": job}, task_id="idle", queue=QUEUE)
    with pytest.raises(NoResult):
        sent.get(timeout=2)
    cancelled = shop.send_task("sightline.cancel.v1", args=["idle"], queue=QUEUE).get(timeout=LONG_TIMEOUT_S)
    assert cancelled["state"] == "cancelled"
    with pytest.raises(Exception, match=r"^cancelled: "):
        sent.get(timeout=LONG_TIMEOUT_S)


def test_wrong_arguments_are_refused_and_a_pickle_is_not_read(shop: Celery, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"^invalid_parameter: sightline\.detect\.v1: confidence: "):
        detect(shop, folder / "0000.png", confidence=7).apply_async().get(timeout=LONG_TIMEOUT_S)
    opened = tmp_path / "opened"
    # Loading this pickle would create a file.
    shop.send_task("sightline.detect.v1", kwargs={"url": _Opens(opened)}, queue=QUEUE, serializer="pickle")
    answer = detect(shop, folder / "0000.png").apply_async().get(timeout=LONG_TIMEOUT_S)
    assert answer["name"].endswith("0000.png")
    assert not opened.exists()


class _Opens:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


@pytest.fixture
def sqs(inlet: None, service: Service, redis_url: str) -> Iterator[Celery]:
    """Deploy the application with a queue at SQS, and yield a shop that sends tasks to this queue.

    The fixture ``inlet`` deploys the application without a queue at the end.
    """
    with moto_server() as port:
        broker_url, backend_url = f"sqs://AKIATEST:hunter2@127.0.0.1:{port}", f"{redis_url}/2"
        queue = boto3.client(
            "sqs",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="AKIATEST",
            aws_secret_access_key="hunter2",
        )
        queue_url = queue.create_queue(QueueName=QUEUE)["QueueUrl"]
        celery = {"broker_url": broker_url, "backend_url": backend_url, "queue": QUEUE, "queue_url": queue_url}
        service.deploy(service.args | {"jobs": {"celery": celery}})
        options = {"predefined_queues": {QUEUE: {"url": queue_url}}, "is_secure": False}
        with Celery(broker=broker_url, backend=backend_url, broker_transport_options=options) as shop:
            yield shop
            shop.backend.client.close()
        assert queue.list_queues()["QueueUrls"] == [queue_url]


@pytest.mark.only_with_chaos  # the tests above run the same code with Redis
def test_every_task_from_sqs_has_one_result(sqs: Celery, folder: Path) -> None:
    paths = sorted(folder.glob("*.png"))[:30]
    answers = group([detect(sqs, path) for path in paths])().get(timeout=LONG_TIMEOUT_S)
    assert [Path(answer["name"]).name for answer in answers] == [path.name for path in paths]

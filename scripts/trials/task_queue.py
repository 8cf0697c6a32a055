"""Send Celery tasks while the processes that take and process them are killed. Each task must have one result."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
from celery import Celery, group

from scripts.launch import StartFailed, free_port
from scripts.trials.cluster import Cluster, until
from scripts.trials.random_kills import Kill, random_kills

QUEUE = "sightline"
_VICTIMS = ("JobInlet", "JobSupervisor", "JobRunner")
_TIMEOUT_S = 600.0


@dataclass
class Answered:
    """The tasks that were answered."""

    kills: list[Kill] = field(default_factory=list)
    took_s: float = 0.0
    problems: list[str] = field(default_factory=list)


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis server that stores nothing on disk, and yield its URL without a database.

    Raise StartFailed if Redis is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise StartFailed("redis-server is missing; run scripts/servers as root to install it")
    port = free_port()
    with TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as client:
                until(lambda: _answers(client), what="Redis")
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def _answers(client: redis.Redis) -> bool:
    with suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


def send_tasks(
    cluster: Cluster, redis_url: str, paths: Sequence[Path], times: int, seed: int, tell: Callable[[float], None]
) -> Answered:
    """Send a task for each image, and kill each kind of process ``times`` times until all tasks have a result."""
    trial = Answered()
    started_at_s = time.monotonic()
    with Celery(broker=f"{redis_url}/0", backend=f"{redis_url}/1") as shop:
        with random_kills(_VICTIMS, times, seed, cluster, trial.kills):
            sent = group(
                shop.signature("sightline.detect.v1", kwargs={"url": str(path)}, queue=QUEUE) for path in paths
            )()
            until(lambda: _progress(sent.completed_count(), len(paths), tell), within_s=_TIMEOUT_S, what="all results")
        for path, answer in zip(paths, sent.get(timeout=_TIMEOUT_S), strict=True):
            if Path(answer["name"]).name != path.name:
                trial.problems.append(f"the task for {path.name} has the result of {answer['name']}")
        shop.backend.client.close()
    trial.took_s = time.monotonic() - started_at_s
    return trial


def _progress(done: int, count: int, tell: Callable[[float], None]) -> bool:
    tell(done)
    return done == count

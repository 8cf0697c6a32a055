"""Run batch jobs while processes are killed and while clients wait. No item may be lost or have two results."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scripts.trials.clients import clients
from scripts.trials.cluster import Cluster, until
from scripts.trials.random_kills import Kill
from serve_app.client import Client, ConnectionFailed, SightlineError
from serve_app.schemas.jobs import AT_REST, JobStatus
from serve_app.types import Json

VICTIMS = ("JobRunner", "JobSupervisor", "Detector", "ServeController", "Ingress", "HAProxy")
_TIMEOUT_S = 3600.0
_POLL_INTERVAL_S = 0.5
_URLS = 1000
_WATCHED_S = 5.0  # after a cancellation
_NOTHING_NEW_AFTER_S = 1.0
_CANCEL_INTERVAL_S = 0.02
_LINKS = 50_000  # to one file; ext4 allows 65,000
_CLIENTS = 20
_JOBS = 10  # by each client


Disturbance = Callable[[Cluster, list[Kill]], AbstractContextManager[None]]  # appends each kill to the list


@dataclass
class Exactness:
    """The results of an undisturbed and of a disturbed run of the same job."""

    took_s: list[float] = field(default_factory=list)  # undisturbed, disturbed
    kills: list[Kill] = field(default_factory=list)  # in the disturbed run
    progress: list[tuple[float, int]] = field(default_factory=list)  # items done, since the start of the disturbed run
    repeated: int = 0  # units that were begun again
    problems: list[str] = field(default_factory=list)


def link_pictures(pictures: Sequence[bytes], folder: Path, count: int) -> Path:
    """Make a folder with ``count`` images, most of which are hard links to others, and return the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(count):
        path = folder / f"{number // 1000:04}" / f"{number:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        first = number // _LINKS * _LINKS
        original = first + (number - first) % len(pictures)
        if number == original:
            path.write_bytes(pictures[number - first])
        else:
            os.link(folder / f"{original // 1000:04}" / f"{original:07}.jpg", path)
    return folder


def run_twice(
    cluster: Cluster,
    folder: Path,
    count: int,
    disturbance: Disturbance,
    tell: Callable[[float], None],
    saved: Path,
) -> Exactness:
    """Run the same job undisturbed, and then inside the context manager that ``disturbance`` returns.

    Every item must have exactly one result in both runs, the counters must be exact, and the results must be equal.
    """
    trial = Exactness()
    files = []
    for name in ("undisturbed", "disturbed"):
        started_at_s = time.monotonic()
        with Client(cluster.url) as client:
            client.jobs.create({"id": name, "source": {"type": "files", "path": str(folder)}})
            with disturbance(cluster, trial.kills) if name == "disturbed" else nullcontext():
                status = _wait(client, name, partial(_note, trial, started_at_s, tell))
            trial.took_s.append(time.monotonic() - started_at_s)
            trial.repeated = status.units.repeated
            files.append(saved / f"{name}.jsonl")
            until(partial(_saved, client, name, files[-1]), what="the results")
            trial.problems += _check(status, files[-1], count)
            client.jobs.delete(name)
    if _without_job_id(files[0]) != _without_job_id(files[1]):
        trial.problems.append("the results of the disturbed run differ from those of the undisturbed run")
    if not trial.kills:
        trial.problems.append("the job ended before a process was killed; use more images")
    return trial


def _note(trial: Exactness, started_at_s: float, tell: Callable[[float], None], job: JobStatus) -> None:
    if job.job_id == "disturbed":
        trial.progress.append((time.monotonic() - started_at_s, job.succeeded + job.failed))
    tell(job.succeeded + job.failed)


def _wait(client: Client, job_id: str, note: Callable[[JobStatus], None]) -> JobStatus:
    expires_at_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < expires_at_s:
        with suppress(SightlineError):  # processes die meanwhile
            job = client.jobs.status(job_id)
            note(job)
            if job.state in AT_REST:
                return job
        time.sleep(_POLL_INTERVAL_S)
    raise TimeoutError(f"job {job_id} did not end within {_TIMEOUT_S:g} s")


def _saved(client: Client, job_id: str, path: Path) -> bool:
    client.jobs.save_results(job_id, path)
    return True


def _check(job: JobStatus, results: Path, count: int) -> list[str]:
    problems = []
    if job.state != "completed":
        problems.append(f"{job.job_id}: it is {job.state}: {job.detail}")
    if (job.items, job.succeeded, job.failed, job.waiting, job.in_flight) != (count, count, 0, 0, 0):
        problems.append(f"{job.job_id}: wrong counters: {job.model_dump_json()}")
    with open(results) as file:
        names = Counter(json.loads(line)["name"] for line in file)
    lost, double = count - len(names), sum(number - 1 for number in names.values())
    if lost or double:
        problems.append(f"{job.job_id}: {lost} items have no result, and {double} results are double")
    return problems


def _without_job_id(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path) as file:
        for line in file:
            body = json.loads(line)
            del body["job_id"]
            digest.update(json.dumps(body).encode())
    return digest.hexdigest()


@dataclass
class Load:
    """How a job and the clients beside it fare."""

    images_per_s: float = 0.0
    alone_s: list[float] = field(default_factory=list)  # the 99th percentiles of requests, one for each run
    beside_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def beside(cluster: Cluster, folder: Path, picture: bytes, runs: int, run_s: float, people: int) -> Load:
    """Measure the latency of clients alone and beside a job, in turns."""
    load = Load()
    for number in range(runs):
        load.alone_s.append(_p99_s(cluster, picture, run_s, people, load))
        job_id = f"beside-{number}"
        with Client(cluster.url) as client:
            client.jobs.create({"id": job_id, "source": {"type": "files", "path": str(folder)}})
            until(partial(_has_result, client, job_id), what="the job's first result")
            load.beside_s.append(_p99_s(cluster, picture, run_s, people, load))
            job = client.jobs.status(job_id)
            if job.state in AT_REST:
                load.problems.append("the job ended before the clients did; use more images")
            load.images_per_s = job.images_per_s
            client.jobs.delete(job_id)
    return load


def _has_result(client: Client, job_id: str) -> bool:
    return client.jobs.status(job_id).succeeded > 0


def _p99_s(cluster: Cluster, picture: bytes, run_s: float, people: int, load: Load) -> float:
    with clients(cluster.url, picture, people) as crowd:
        seen = len(crowd.requests)
        time.sleep(run_s)
    took_s = sorted(one.ended_at_s - one.started_at_s for one in crowd.requests[seen:])
    load.problems += crowd.problems
    return took_s[min(len(took_s) - 1, math.ceil(0.99 * len(took_s)))]


def throughput(cluster: Cluster, folder: Path, count: int, job_id: str = "throughput") -> tuple[float, list[str]]:
    """Run a job alone, and return its images per second between the first and the last result."""
    points: list[tuple[float, int]] = []
    with Client(cluster.url) as client:
        client.jobs.create({"id": job_id, "source": {"type": "files", "path": str(folder)}})
        job = _wait(client, job_id, lambda job: points.append((time.monotonic(), job.succeeded)))
        client.jobs.delete(job_id)
    begun = [point for point in points if 0 < point[1] < count] or points
    (first_s, first), (last_s, last) = begun[0], begun[-1]
    problems = [] if job.succeeded == count else [f"{job_id}: {job.succeeded} of {count} items succeeded: {job.detail}"]
    return (last - first) / max(last_s - first_s, 1e-9), problems


def acknowledge(cluster: Cluster, pause_s: float) -> list[float]:
    """Let 20 clients create jobs with 1,000 URLs each, and return the seconds that each creation took.

    After each job, a client waits for ``pause_s`` on average.
    """
    urls = [f"https://192.0.2.1/{number}.jpg" for number in range(_URLS)]

    def create(name: int) -> list[float]:
        took_s = []
        chance = random.Random(name)
        with Client(cluster.url) as client:
            client.health()  # open the connection first
            for number in range(_JOBS):
                time.sleep(chance.uniform(0, 2 * pause_s))
                started_at_s = time.monotonic()
                client.jobs.create(_paused(f"ack-{name}-{number}", urls))
                took_s.append(time.monotonic() - started_at_s)
            for number in range(_JOBS):
                client.jobs.delete(f"ack-{name}-{number}")
        return took_s

    with ThreadPoolExecutor(_CLIENTS) as pool:
        return [one_s for all_s in pool.map(create, range(_CLIENTS)) for one_s in all_s]


def acknowledged_and_killed(cluster: Cluster, times: int) -> list[str]:
    """Kill the supervisor right after it has acknowledged a job, ``times`` times. No job may be lost."""
    urls = [f"https://192.0.2.1/{number}.jpg" for number in range(_URLS)]
    problems = []
    with Client(cluster.url) as client:
        for number in range(times):
            job_id = f"killed-{number}"
            until(partial(_created, client, _paused(job_id, urls)), what="an acknowledgement")
            for process in cluster.alive("JobSupervisor"):
                process.kill()
            job = until(partial(client.jobs.status, job_id), what="the job after the kill")
            if job.items != _URLS:
                problems.append(f"{job_id}: it has {job.items} items instead of {_URLS}")
        for job in until(lambda: list(client.jobs.list()), what="the list of jobs"):
            client.jobs.delete(job.job_id)
    return problems


def _paused(job_id: str, urls: Sequence[str]) -> Json:
    return {"id": job_id, "source": {"type": "urls", "urls": list(urls)}, "paused": True}


def _created(client: Client, spec: Json) -> JobStatus:
    with suppress(ConnectionFailed):
        return client.jobs.put(spec)
    return client.jobs.status(spec["id"])


def cancel(cluster: Cluster, folder: Path) -> tuple[float, float, list[str]]:
    """Cancel a running job. Return the seconds until the last new result, and until the job had ended."""
    problems = []
    with Client(cluster.url) as client:
        client.jobs.create({"id": "cancelled", "source": {"type": "files", "path": str(folder)}})
        until(partial(_has_result, client, "cancelled"), what="the job's first result")
        before = client.jobs.status("cancelled").succeeded
        started_at_s = time.monotonic()
        client.jobs.cancel("cancelled")
        last_s = ended_s = 0.0
        while (now_s := time.monotonic() - started_at_s) < _WATCHED_S:
            job = client.jobs.status("cancelled")
            if job.succeeded > before:
                before, last_s = job.succeeded, now_s
            if job.state == "cancelled" and not ended_s:
                ended_s = now_s
            time.sleep(_CANCEL_INTERVAL_S)
        if not ended_s or last_s > _NOTHING_NEW_AFTER_S:
            problems.append(f"cancelled: it is {job.state}, and its last result came after {last_s:.2f} s")
        readable = sum(1 for _ in client.jobs.items("cancelled"))
        client.jobs.delete("cancelled")
    if readable != before:
        problems.append(f"{readable} of {before} results are readable after the cancellation")
    return last_s, ended_s, problems


def first_results(cluster: Cluster, folder: Path) -> tuple[float, float]:
    """Return the seconds from the request to the first result: without a runner, and with a runner awake."""
    until(lambda: not cluster.alive("JobRunner"), what="no JobRunner", within_s=300)
    return _first_s(cluster, folder, "asleep"), _first_s(cluster, folder, "awake")


def _first_s(cluster: Cluster, folder: Path, job_id: str) -> float:
    with Client(cluster.url) as client:
        started_at_s = time.monotonic()
        client.jobs.create({"id": job_id, "source": {"type": "files", "path": str(folder)}})
        until(partial(_has_result, client, job_id), what="the first result")
        took_s = time.monotonic() - started_at_s
        client.jobs.delete(job_id)
    return took_s


def idle_percent(cluster: Cluster, kinds: Sequence[str], run_s: float) -> dict[str, float]:
    """Return the share of a core, in percent, that a process of each kind uses while there is no job."""
    processes = {kind: cluster.alive(kind)[0] for kind in kinds}
    before_s = {kind: sum(process.cpu_times()[:2]) for kind, process in processes.items()}
    time.sleep(run_s)
    return {kind: 100 * (sum(process.cpu_times()[:2]) - before_s[kind]) / run_s for kind, process in processes.items()}

"""Run the parts of the trial of jobs, and print what they measured."""

from __future__ import annotations

import os
import secrets
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from scripts.benchmark import pictures
from scripts.benchmark.ceiling import measure
from scripts.trials import jobs
from scripts.trials.cluster import Cluster, until
from scripts.trials.job_node import losing_node, two_machines
from scripts.trials.job_plot import save_job_plot
from scripts.trials.node import SEVERAL_NODES
from scripts.trials.random_kills import Kill, random_kills
from scripts.trials.stage import FOLDER, console, local_config, progress, serving, small_picture
from scripts.trials.task_queue import QUEUE, redis_server, send_tasks

_PARTS = "rate", "exact", "acknowledge", "cancel", "first", "tasks", "real", "beside", "node"
_CEILING_S = 20.0
_TASKS = 1000
_IDLE_S = 60.0


def run_jobs(times: int, options: Namespace) -> list[str]:
    """Measure batch jobs, alone, under faults and beside clients.

    The parts ``rate``, ``exact``, ``acknowledge``, ``cancel``, ``first``, ``tasks`` and ``node`` use an engine that
    answers at once. The parts ``real`` and ``beside`` use the model of ``--model``. ``--kind`` selects the parts whose
    name contains its text.
    """
    seed = secrets.randbits(32) if options.seed is None else options.seed
    parts = [part for part in _PARTS if options.kind in part]
    console.print(f"--seed {seed}")
    problems: list[str] = []
    model = {"weights": str(options.model)}
    if set(parts) - {"tasks", "node", "real", "beside"}:
        with serving(local_config({"model": {"engine": "null"}, "outbound": {"detect_urls": True}})) as cluster:
            problems += _simulated_jobs(cluster, parts, times, seed, options.items)
    if "tasks" in parts:
        problems += _celery_tasks(times, seed)
    if set(parts) & {"real", "beside"}:
        photographs = list(pictures.photographs(None))
        with serving(local_config({"model": model})) as cluster:
            problems += _real_jobs(cluster, parts, times, seed, options.items // 20, photographs)
    if "real" in parts:
        ceiling = measure(model, _CEILING_S)
        console.print(f"the bare engine: {ceiling.images_per_s:.1f} images/s")
    if "node" in parts:
        os.environ[SEVERAL_NODES] = "1"
        with serving(two_machines()) as cluster:
            folder = jobs.link_pictures([small_picture()], FOLDER / "many", options.items)
            problems += _show_exactness(cluster, folder, options.items, losing_node, "small images, two nodes")
    return problems


def _simulated_jobs(cluster: Cluster, parts: Sequence[str], times: int, seed: int, count: int) -> list[str]:
    folder = jobs.link_pictures([small_picture()], FOLDER / "many", count)
    problems: list[str] = []
    if "first" in parts:
        asleep_s, awake_s = jobs.first_results(cluster, folder)
        console.print(f"the first result: {asleep_s:.2f} s without a runner, {awake_s:.2f} s with one awake")
    if "rate" in parts:
        images_per_s, found = jobs.throughput(cluster, folder, count)
        console.print(f"a folder of {count} small images: {images_per_s:.1f} images/s")
        problems += found
    if "exact" in parts:
        kills = partial(random_kills, jobs.VICTIMS, times, seed)
        problems += _show_exactness(cluster, folder, count, kills, "small images, an engine that answers at once")
    if "acknowledge" in parts:
        for pause_s in (2.0, 0.0):
            p50_s, p99_s = np.percentile(jobs.acknowledge(cluster, pause_s), [50, 99])
            console.print(
                f"20 clients create jobs with 1,000 URLs, with pauses of {pause_s:g} s: p50 {p50_s * 1e3:.0f} ms, "
                f"p99 {p99_s * 1e3:.0f} ms"
            )
        problems += jobs.acknowledged_and_killed(cluster, times)
    if "cancel" in parts:
        last_s, ended_s, found = jobs.cancel(cluster, folder)
        console.print(f"after a cancellation: the last result {last_s:.2f} s, the job's end {ended_s:.2f} s")
        problems += found
    if "first" in parts:
        until(lambda: not cluster.alive("JobRunner"), within_s=300, what="no JobRunner")
        for kind, percent in jobs.idle_percent(cluster, ("JobSupervisor", "StreamSupervisor"), _IDLE_S).items():
            console.print(f"an idle {kind} uses {percent:.2f} % of a core")
    return problems


def _celery_tasks(times: int, seed: int) -> list[str]:
    paths = sorted(jobs.link_pictures([small_picture()], FOLDER / "tasks", _TASKS).rglob("*.jpg"))
    with redis_server() as url:
        queue = {"broker_url": f"{url}/0", "backend_url": f"{url}/1", "queue": QUEUE}
        config = local_config({"model": {"engine": "null"}, "jobs": {"celery": queue}})
        with serving(config) as cluster, progress("tasks", _TASKS) as tell:
            trial = send_tasks(cluster, url, paths, times, seed, tell)
    console.print(f"{_TASKS} Celery tasks: answered within {trial.took_s:.0f} s with kills: {counted(trial.kills)}")
    return trial.problems


def counted(kills: Sequence[Kill]) -> str:
    """Return how many processes of each kind were killed."""
    return ", ".join(f"{number} of {victim}" for victim, number in sorted(Counter(one for _, one in kills).items()))


def _real_jobs(
    cluster: Cluster, parts: Sequence[str], times: int, seed: int, count: int, photographs: list[bytes]
) -> list[str]:
    folder = jobs.link_pictures(photographs, FOLDER / "photographs", count)
    problems: list[str] = []
    if "real" in parts:
        images_per_s, found = jobs.throughput(cluster, folder, count)
        console.print(f"a folder of {count} photographs: {images_per_s:.1f} images/s")
        problems += found
        kills = partial(random_kills, jobs.VICTIMS, times, seed)
        problems += _show_exactness(cluster, folder, count, kills, "photographs")
    if "beside" in parts:
        load = jobs.beside(cluster, folder, photographs[0], runs=3, run_s=20.0, people=1)
        alone_s, beside_s = np.median(load.alone_s), np.median(load.beside_s)
        console.print(
            f"p99 of a client, median of 3 runs: {alone_s * 1e3:.0f} ms alone, {beside_s * 1e3:.0f} ms beside a job "
            f"({beside_s / alone_s:.2f} times), which processed {load.images_per_s:.1f} images/s"
        )
        problems += load.problems
    return problems


def _show_exactness(
    cluster: Cluster,
    folder: Path,
    count: int,
    disturbance: jobs.Disturbance,
    what: str,
) -> list[str]:
    with progress("job", count) as tell:
        trial = jobs.run_twice(cluster, folder, count, disturbance, tell, FOLDER)
    console.print(
        f"{count} {what}: {trial.took_s[0]:.0f} s undisturbed, {trial.took_s[1]:.0f} s with kills: "
        + counted(trial.kills)
        + f"; {trial.repeated} units were begun again"
    )
    console.print(f"plot: {save_job_plot(trial, count, FOLDER / 'jobs.png')}")
    return trial.problems

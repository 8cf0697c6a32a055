#!/usr/bin/env -S sh -c 'exec "$(dirname "$0")/../.venv/bin/python" -X utf8 "$0" "$@"'
"""Run clients and streams for half an hour while processes are killed. Then print a verdict and save a plot.

scripts/soak.py                         run for 30 minutes, and kill a process every minute except in the last third
scripts/soak.py --minutes 480           run overnight

The test starts scripts/serve with the embedded model. The exit status is 1 if the test finds a problem, such as memory
that keeps growing in the last third, a process that is left running, or a failed request. A request may fail only if it
was in flight when an Ingress or HAProxy was killed, because the kill cuts the connection.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import psutil
from matplotlib.colors import ListedColormap

from scripts.benchmark.usage import memory_mib
from scripts.launch import ROOT, StartFailed, StopFailed, stop_on_signals
from scripts.trials.background import in_background
from scripts.trials.clients import Death, Request, clients, losses
from scripts.trials.cluster import Cluster, frame_pools, stream, until
from scripts.trials.kills import VICTIMS
from scripts.trials.stage import FOLDER, Tell, console, progress, save_pictures, save_video, serving
from serve_app.schemas.streams import StreamStatus

CLIENTS = 4
MEMORY_INTERVAL_S = 5.0
# The last third of a run has no faults, because memory leaks cannot be measured in processes that are killed.
CALM = 1 / 3
# The first part of that third is not measured, because buffers are still growing.
SETTLED = 0.3
MAX_GROWTH_MIB = 0.5  # MiB per minute, after subtracting twice the standard error
STREAMS: dict[str, dict[str, Any]] = {"steady": {"policy": "wait", "max_fps": 5}, "greedy": {"policy": "drop_oldest"}}


@dataclass
class Soak:
    """The observations of a run. All times are in seconds since the start of the run."""

    requests: list[Request] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    calm_starts_at_s: float = 0.0  # when the last third starts
    memory: list[tuple[float, Counter[str]]] = field(default_factory=list)  # (time, MiB by process name)
    slopes: dict[str, tuple[float, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def main() -> None:
    """Run the test, show the result, and exit with status 1 if there was a problem."""
    stop_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="duration (default: %(default)s)")
    parser.add_argument(
        "--fault-period-s", type=float, default=60, help="seconds between two faults (default: %(default)s)"
    )
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    before, pids = frame_pools(), set(psutil.pids())
    soak: Soak | None = None
    try:
        with serving() as cluster:
            soak = run(cluster, options.minutes * 60, options.fault_period_s)
    except StartFailed as exc:
        sys.exit(str(exc))
    except StopFailed as exc:
        if soak is None:
            raise
        soak.problems.append(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    left = [name for name in map(_ray_name, set(psutil.pids()) - pids) if name]
    soak.problems += [f"left running: {name}" for name in left]
    soak.problems += [f"left in shared memory: {name}" for name in frame_pools() - before]
    show(soak)
    console.print("\n".join(soak.problems) or "no problems were found")
    console.print("VERDICT: " + ("failed" if soak.problems else "passed"))
    sys.exit(bool(soak.problems))


def run(cluster: Cluster, duration_s: float, fault_period_s: float) -> Soak:
    """Run clients and streams for ``duration_s``, with a fault every ``fault_period_s``."""
    soak, began_at_s = Soak(), time.monotonic()
    calm_starts_at_s = began_at_s + (1 - CALM) * duration_s
    deaths: list[Death] = []
    video, picture = save_video(), (save_pictures() / "0.jpg").read_bytes()

    def record_memory(over: threading.Event) -> None:
        while not over.wait(MEMORY_INTERVAL_S):
            soak.memory.append((time.monotonic() - began_at_s, memory_mib(cluster.pid)))

    with (
        stream(cluster, "steady", video, loop=True, **STREAMS["steady"]),
        stream(cluster, "greedy", video, loop=True, **STREAMS["greedy"]),
        clients(cluster.url, picture, CLIENTS) as crowd,
        progress("soaking", duration_s) as tell,
    ):
        with in_background(record_memory):
            for victim in itertools.cycle(VICTIMS):
                _wait(min(time.monotonic() + fault_period_s, calm_starts_at_s), began_at_s, tell)
                if time.monotonic() >= calm_starts_at_s:
                    break
                try:
                    deaths.append(_kill(cluster, victim))
                except TimeoutError as exc:
                    soak.problems.append(str(exc))
            _wait(began_at_s + duration_s, began_at_s, tell)
        _check_streams(cluster, soak)
    soak.requests = [
        Request(one.started_at_s - began_at_s, one.ended_at_s - began_at_s, one.problem) for one in crowd.requests
    ]
    soak.deaths = [Death(one.victim, one.at_s - began_at_s, one.ended_at_s - began_at_s) for one in deaths]
    soak.calm_starts_at_s = calm_starts_at_s - began_at_s
    lost = losses(soak.requests, soak.deaths)
    soak.problems += [
        f"a request failed (killed: {one.victim or 'nothing'}): {one.problem}" for one in lost if not one.is_excused
    ]
    _check_memory(soak)
    return soak


def _wait(end_at_s: float, began_at_s: float, tell: Tell) -> None:
    while (now_at_s := time.monotonic()) < end_at_s:
        tell(now_at_s - began_at_s)
        time.sleep(min(1.0, end_at_s - now_at_s))


def _kill(cluster: Cluster, victim: str) -> Death:
    killed = cluster.kill_one(victim)
    killed.wait_for_successor()
    return killed.death


def _has_progressed(cluster: Cluster, before: StreamStatus) -> bool:
    return cluster.status(before.stream_id).processed > before.processed


def _check_streams(cluster: Cluster, soak: Soak) -> None:
    for status in cluster.streams():
        try:
            until(partial(_has_progressed, cluster, status), what="a frame")
        except TimeoutError:
            soak.problems.append(f"stream {status.stream_id} makes no progress: {status.state} {status.detail}")


def _check_memory(soak: Soak) -> None:
    soak.slopes = slopes(soak)
    if not soak.slopes:
        soak.problems.append("the run was too short to tell whether memory grows: increase --minutes")
    for name, (slope_mib, error_mib) in soak.slopes.items():
        if slope_mib - 2 * error_mib > MAX_GROWTH_MIB:
            soak.problems.append(f"{name}: memory grows by {slope_mib:.2f} MiB per minute")


def slopes(soak: Soak) -> dict[str, tuple[float, float]]:
    """Return the growth of memory in MiB per minute, and its standard error, by process name.

    The name "all" stands for the sum of all processes. The growth is measured in the last third of the run, without the
    beginning of that third. If the run was too short for this measurement, the result is empty.
    """
    duration_s = soak.memory[-1][0]
    settled = [
        seen for seen in soak.memory if seen[0] > duration_s - (1 - SETTLED) * (duration_s - soak.calm_starts_at_s)
    ]
    if len(settled) < 5:
        return {}
    at_min = np.array([at_s / 60 for at_s, _ in settled])
    mib = {name: [by_name[name] for _, by_name in settled] for name in sorted(settled[0][1])}
    mib["all"] = [by_name.total() for _, by_name in settled]
    found = {}
    for name, values in mib.items():
        (slope_mib, _), covariance = np.polyfit(at_min, values, 1, cov=True)
        found[name] = float(slope_mib), float(np.sqrt(covariance[0, 0]))
    return found


def show(soak: Soak) -> None:
    """Print the figures, and plot memory, latencies and failures."""
    took_ms = np.array([one.ended_at_s - one.started_at_s for one in soak.requests if not one.problem]) * 1e3
    failed = Counter(one.problem for one in soak.requests if one.problem)
    console.print(
        f"{len(soak.requests)} requests, {failed.total()} of them failed; p50 {np.percentile(took_ms, 50):.0f} ms, "
        f"p99 {np.percentile(took_ms, 99):.0f} ms; {len(soak.deaths)} faults; {soak.memory[-1][1].total():.0f} MiB; "
        "growth of memory in the part without faults, in MiB per minute:"
    )
    for name, (slope_mib, error_mib) in soak.slopes.items():
        console.print(f"  {slope_mib:+.2f} ± {error_mib:.2f} {name}")
    for problem, count in failed.most_common():
        console.print(f"  {count} × {problem}")
    figure, (latency, memory) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, layout="constrained")
    good = [one for one in soak.requests if not one.problem]
    latency.semilogy(
        [one.ended_at_s / 60 for one in good], [(one.ended_at_s - one.started_at_s) * 1e3 for one in good], ".", ms=2
    )
    bad = [one for one in soak.requests if one.problem]
    latency.plot([one.ended_at_s / 60 for one in bad], [(one.ended_at_s - one.started_at_s) * 1e3 for one in bad], "rx")
    latency.set(ylabel="latency, ms (red: failed)", title="clients and streams while processes are killed")
    names = sorted({name for _, by_name in soak.memory for name in by_name})
    at_min = [at_s / 60 for at_s, _ in soak.memory]
    series = [[by_name[name] for _, by_name in soak.memory] for name in names]
    tab20 = plt.get_cmap("tab20")
    assert isinstance(tab20, ListedColormap)
    memory.stackplot(at_min, series, labels=names, colors=tab20.colors)
    memory.set(xlabel="minutes", ylabel="memory, MiB")
    memory.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    for death in soak.deaths:
        for plot in latency, memory:
            plot.axvline(death.at_s / 60, color="grey", lw=0.5)
        latency.text(death.at_s / 60, latency.get_ylim()[1], death.victim, rotation=90, va="top", fontsize=6)
    figure.savefig(FOLDER / "soak.png", dpi=120)
    console.print(f"plot: {FOLDER / 'soak.png'}")


def _ray_name(pid: int) -> str:
    """Return the command of a process, or "" if the process does not seem to belong to a cluster."""
    try:
        process = psutil.Process(pid)
        command = " ".join(process.cmdline())
    except psutil.Error:
        return ""
    ours = ("ray::", str(ROOT), "serve_app", "haproxy", "raylet", "gcs_server")
    return command[:80] if any(word in command for word in ours) else ""


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Half an hour of clients and streams, while one process after the other is killed; a plot, and one verdict.

scripts/soak.py                         30 minutes, a fault a minute
scripts/soak.py --minutes 480           a night

Starts scripts/serve with the embedded model. Exits 1 when a request was lost that could have been answered, when memory
grows, or when anything is left behind.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import psutil

from scripts.benchmark.usage import memory_mib
from scripts.server import StartFailed, stop_on_signals
from scripts.trials.clients import Clients, Request, clients
from scripts.trials.cluster import Cluster, frame_pools, stream, until
from scripts.trials.kills import CUTS_CONNECTIONS, VICTIMS
from scripts.trials.stage import FOLDER, console, progress, save_pictures, save_video, serving

CLIENTS = 4
LOOK_PERIOD_S = 5.0
SETTLED_S = 180.0  # every process has been started again, and every buffer is as large as it gets
BACK_WITHIN_S = 60.0
GROWTH_BAR = 0.002  # of the memory, a minute: 6 % in half an hour
STREAMS = {"steady": {"policy": "wait", "max_fps": 5}, "greedy": {"policy": "drop_oldest"}}


@dataclass
class Soak:
    """What was seen; times are seconds since the start."""

    requests: list[Request] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)
    memory: list[tuple[float, Counter[str]]] = field(default_factory=list)  # MiB by process name
    processed: list[tuple[float, int]] = field(default_factory=list)  # frames of all streams
    problems: list[str] = field(default_factory=list)


def main() -> None:
    """Run it; exits 1 when something was wrong."""
    stop_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--fault-period-s", type=float, default=60)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    before, pids = frame_pools(), set(psutil.pids())
    try:
        with serving() as cluster:
            soak = run(cluster, options.minutes * 60, options.fault_period_s)
    except StartFailed as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    left = [name for name in map(_ray_name, set(psutil.pids()) - pids) if name]
    soak.problems += [f"left running: {name}" for name in left]
    soak.problems += [f"left in shared memory: {name}" for name in frame_pools() - before]
    show(soak)
    console.print("\n".join(soak.problems) or "nothing was wrong")
    console.print("VERDICT: " + ("failed" if soak.problems else "passed"))
    sys.exit(bool(soak.problems))


def run(cluster: Cluster, duration_s: float, fault_period_s: float) -> Soak:
    """Clients and streams for so long, a fault every so often."""
    soak, began_s, over = Soak(), time.monotonic(), threading.Event()
    video, picture = save_video(), (save_pictures() / "0.jpg").read_bytes()

    def look() -> None:
        while not over.wait(LOOK_PERIOD_S):
            soak.memory.append((time.monotonic() - began_s, memory_mib(cluster.pid)))

    looking = threading.Thread(target=look)
    with (
        stream(cluster, "steady", video, loop=True, **STREAMS["steady"]),
        stream(cluster, "greedy", video, loop=True, **STREAMS["greedy"]),
        clients(cluster.url, picture, CLIENTS) as crowd,
        progress("soaking", duration_s) as tell,
    ):
        looking.start()
        try:
            for victim in itertools.cycle(VICTIMS):
                until_s = min(time.monotonic() + fault_period_s, began_s + duration_s)
                while (now_s := time.monotonic()) < until_s:
                    tell(now_s - began_s)
                    time.sleep(min(1.0, until_s - now_s))
                if time.monotonic() >= began_s + duration_s:
                    break
                soak.faults.append((time.monotonic() - began_s, victim))
                _kill(cluster, victim, crowd, soak)
        finally:
            over.set()
            looking.join()
        _check_streams(cluster, soak)
    soak.requests = [Request(one.begun_s - began_s, one.ended_s - began_s, one.problem) for one in crowd.requests]
    _check_memory(soak)
    return soak


def _kill(cluster: Cluster, victim: str, crowd: Clients, soak: Soak) -> None:
    since_s = time.monotonic()
    killed = cluster.kill_one(victim)
    killed_s = time.monotonic()
    killed.wait_for_successor()
    seen = len(crowd.requests)
    until(lambda: len(crowd.requests) >= seen + 2 * CLIENTS, within_s=BACK_WITHIN_S, what="answers")
    cut, failed = crowd.failures(since_s, killed_s)
    if victim not in CUTS_CONNECTIONS:
        failed += cut
    soak.problems += [f"{victim}: {problem}" for problem in failed]


def _check_streams(cluster: Cluster, soak: Soak) -> None:
    for status in cluster.streams():
        began = status.processed
        try:
            until(lambda one=status, began=began: cluster.status(one.stream_id).processed > began, what="a frame")
        except TimeoutError:
            soak.problems.append(f"stream {status.stream_id} stands still: {status.state} {status.detail}")


def _check_memory(soak: Soak) -> None:
    slope_mib, total_mib = memory_slope(soak)
    if slope_mib > GROWTH_BAR * total_mib:
        soak.problems.append(f"memory grows by {slope_mib:.2f} MiB a minute, of {total_mib:.0f}")


def memory_slope(soak: Soak) -> tuple[float, float]:
    """MiB a minute once it has settled, and MiB at the end; a dead process's absence is no sign of anything."""
    seen = [(at_s, by_name.total()) for at_s, by_name in soak.memory if at_s > SETTLED_S]
    if len(seen) < 3:
        return 0.0, soak.memory[-1][1].total() if soak.memory else 0.0
    at_s, mib = np.array(seen).T
    whole = mib > 0.95 * np.median(mib)
    return float(np.polyfit(at_s[whole] / 60, mib[whole], 1)[0]), float(mib[-1])


def show(soak: Soak) -> None:
    """Figures, and a plot of memory, latency and what failed."""
    took_ms = np.array([one.ended_s - one.begun_s for one in soak.requests if not one.problem]) * 1e3
    failed = Counter(one.problem for one in soak.requests if one.problem)
    slope_mib, total_mib = memory_slope(soak)
    console.print(
        f"{len(soak.requests)} requests, {failed.total()} of them failed; p50 {np.percentile(took_ms, 50):.0f} ms, "
        f"p99 {np.percentile(took_ms, 99):.0f} ms; {len(soak.faults)} faults; memory {slope_mib:+.2f} MiB a minute, "
        f"of {total_mib:.0f}"
    )
    for problem, count in failed.most_common():
        console.print(f"  {count} × {problem}")
    figure, (latency, memory) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, layout="constrained")
    good = [one for one in soak.requests if not one.problem]
    latency.semilogy([one.ended_s / 60 for one in good], [(one.ended_s - one.begun_s) * 1e3 for one in good], ".", ms=2)
    bad = [one for one in soak.requests if one.problem]
    latency.plot([one.ended_s / 60 for one in bad], [(one.ended_s - one.begun_s) * 1e3 for one in bad], "rx")
    latency.set(ylabel="a request, ms (red: failed)", title="clients and streams while processes are killed")
    names = sorted({name for _, by_name in soak.memory for name in by_name})
    at_min = [at_s / 60 for at_s, _ in soak.memory]
    memory.stackplot(at_min, [[by_name[name] for _, by_name in soak.memory] for name in names], labels=names)
    memory.set(xlabel="minutes", ylabel="memory, MiB")
    memory.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    for at_s, victim in soak.faults:
        for plot in latency, memory:
            plot.axvline(at_s / 60, color="grey", lw=0.5)
        latency.text(at_s / 60, latency.get_ylim()[1], victim, rotation=90, va="top", fontsize=6)
    figure.savefig(FOLDER / "soak.png", dpi=120)
    console.print(f"look at {FOLDER / 'soak.png'}")


def _ray_name(pid: int) -> str:
    """What of a cluster a process is; nothing for another one's."""
    try:
        process = psutil.Process(pid)
        command = " ".join(process.cmdline())
    except psutil.Error:
        return ""
    return command[:80] if command.startswith("ray::") or process.name() in {"raylet", "gcs_server", "haproxy"} else ""


if __name__ == "__main__":
    main()

"""Streams come and go, and leave nothing behind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from scripts.trials.cluster import Cluster, Footprint, frame_pools, stream, until

_SETTLED_AFTER = 3  # streams: by then everything that is opened once is open
_FORGOTTEN_AFTER_S = 60.0  # Ray's node agent drops a gauge after two reports
_LASTING = ("StreamSupervisor", "Detector", "Preprocessor", "Ingress")


@dataclass
class Churn:
    """How it went."""

    took_s: list[float] = field(default_factory=list)  # to create a stream, have a result and delete it
    before: dict[str, Footprint] = field(default_factory=dict)  # by deployment, settled
    after: dict[str, Footprint] = field(default_factory=dict)
    series: Counter[str] = field(default_factory=Counter)  # that came, by metric
    problems: list[str] = field(default_factory=list)


def churn(cluster: Cluster, video: Path, times: int, tell: Callable[[int], None]) -> Churn:
    """One stream after the other."""
    trial = Churn()
    pools: set[str] = set()
    series: Counter[str] = Counter()
    for done in range(_SETTLED_AFTER + times):
        if done == _SETTLED_AFTER:
            _wait_until_forgotten(cluster)
            trial.before, series, pools = _footprints(cluster), cluster.series(), frame_pools()
        began_s = time.monotonic()
        name = f"guest-{done}"
        with stream(cluster, name, video, loop=True):
            until(lambda name=name: cluster.status(name).processed, what="a result")
        trial.took_s.append(time.monotonic() - began_s)
        tell(done + 1)
    _wait_until_forgotten(cluster)
    trial.after = _footprints(cluster)
    trial.series = cluster.series() - series
    if cluster.streams() or cluster.workers():
        trial.problems.append("streams or their processes are left")
    if frame_pools() - pools:
        trial.problems.append("frame pools are left")
    ours = {name: count for name, count in trial.series.items() if "sightline" in name}
    if ours:
        trial.problems.append(f"metric series are left: {ours}")
    for name, before in trial.before.items():
        after = trial.after[name]
        if after.descriptors > before.descriptors + 2:  # a connection or two more or less to Ray's own processes
            trial.problems.append(f"{name}: {before.descriptors} descriptors became {after.descriptors}")
        if after.threads > before.threads + 2:
            trial.problems.append(f"{name}: {before.threads} threads became {after.threads}")
    return trial


def _footprints(cluster: Cluster) -> dict[str, Footprint]:
    return {name: Footprint.of(_only(cluster.replicas(name))) for name in _LASTING}


def _only(processes: list[psutil.Process]) -> psutil.Process:
    (process,) = processes
    return process


def _wait_until_forgotten(cluster: Cluster) -> None:
    until(lambda: not cluster.workers(), what="the end of the last one's process")
    until(
        lambda: not any("sightline_stream" in name for name in cluster.series()),
        within_s=_FORGOTTEN_AFTER_S,
        what="the end of the last one's metrics",
    )

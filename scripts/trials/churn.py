"""Create and delete many streams, and check that they leave nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scripts.trials.cluster import Cluster, Footprint, frame_pools, frame_pools_remain, stream, until

_AT_ONCE = 4
_NAME = "guest"
_FORGOTTEN_AFTER_S = 180.0  # Ray's node agent forgets a gauge after two reports that lack this gauge
_LASTING = ("StreamSupervisor", "Detector", "Preprocessor", "Ingress")


@dataclass
class Churn:
    """The results of the trial."""

    took_s: list[float] = field(
        default_factory=list
    )  # for each group of four streams: the time to create them, get a result of each and delete them
    # The resources of each replica after the first group of streams.
    before: dict[str, Footprint] = field(default_factory=dict)
    after: dict[str, Footprint] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def churn(cluster: Cluster, video: Path, times: int, tell: Callable[[int], None]) -> Churn:
    """Create and delete ``times`` streams, four at a time."""
    trial = Churn()
    # The server opens some resources only once, when the first streams run. Some of these resources are for metrics.
    # Metrics are recorded every few seconds. We wait for the streams' first metrics before we measure the baseline.
    _visit(cluster, video, _AT_ONCE, until_measured=True)
    _wait_for_end(cluster)
    trial.before, pools = _footprints(cluster), frame_pools()
    for done in range(0, times, _AT_ONCE):
        trial.took_s.append(_visit(cluster, video, min(_AT_ONCE, times - done)))
        tell(min(done + _AT_ONCE, times))
    _wait_for_end(cluster)
    until(
        lambda: not cluster.series_of(_NAME), within_s=_FORGOTTEN_AFTER_S, what="the end of the last stream's metrics"
    )
    trial.after = _footprints(cluster)
    if cluster.streams() or cluster.workers():
        trial.problems.append("streams or their processes are left over")
    if frame_pools_remain(pools):
        trial.problems.append("frame pools are left over")
    for name, before in trial.before.items():
        if name not in trial.after:
            trial.problems.append(f"{name} was replaced or has ended")
        else:
            trial.problems += [f"{name}: {growth}" for growth in trial.after[name].growth(before)]
    return trial


def _visit(cluster: Cluster, video: Path, count: int, *, until_measured: bool = False) -> float:
    """Run ``count`` streams at once until each has a result, and return how many seconds that took."""
    started_at_s = time.monotonic()
    names = [f"{_NAME}-{number}" for number in range(count)]
    with ExitStack() as streams:
        for name in names:
            streams.enter_context(stream(cluster, name, video, loop=True))
        for name in names:
            until(partial(_processed, cluster, name), what="a result")
        if until_measured:
            until(lambda: cluster.series_of(_NAME), what="metrics that name a stream")
    return time.monotonic() - started_at_s


def _processed(cluster: Cluster, name: str) -> int:
    return cluster.status(name).processed


def _footprints(cluster: Cluster) -> dict[str, Footprint]:
    replicas = [(name, process) for name in _LASTING for process in cluster.replicas(name)]
    return {f"{name} {process.pid}": Footprint.of(process) for name, process in replicas}


def _wait_for_end(cluster: Cluster) -> None:
    until(lambda: not cluster.workers(), what="the end of the last stream's process")

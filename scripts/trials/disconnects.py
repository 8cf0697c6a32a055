"""Unplug a camera repeatedly, and check that its stream recovers and leaks nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from scripts.trials.cluster import SLACK, Cluster, Footprint, frame_pools, frame_pools_remain, stream
from scripts.trials.follower import Follower
from scripts.trials.relay import Relay
from serve_app.client import StreamEvent
from serve_app.schemas.streams import StateChange

_SETTLED_AFTER = 3  # after this many disconnects, the process has opened all resources that it opens only once
# With fewer disconnects, a leak of one descriptor per disconnect would not exceed the slack.
MIN_DISCONNECTS = _SETTLED_AFTER + SLACK + 1
_ROUNDS = 3  # growth is a leak only if the process grows in each of these rounds
_LONGEST_PULL_S = 2.0
_MEMORY_SLACK_MIB = 20.0  # allocators keep some of the freed memory


@dataclass
class Disconnects:
    """The results of the trial."""

    away_s: list[float] = field(
        default_factory=list
    )  # for each disconnect: the time between plugging the cable in and the result of a new frame
    before: Footprint | None = None  # resources of the stream's process before the last round of disconnects
    after: Footprint | None = None
    problems: list[str] = field(default_factory=list)


def disconnect(cluster: Cluster, camera_port: int, times: int, tell: Callable[[int], None]) -> Disconnects:
    """Unplug a camera ``times`` times. ``tell`` is called with the number of disconnects so far.

    If the process has grown, the disconnects are repeated in another round. A thread pool that was not yet full makes
    the process grow once, while a leak makes the process grow in every round.
    """
    trial = Disconnects()
    with Relay(camera_port) as cable, stream(cluster, "cable", f"rtsp://127.0.0.1:{cable.port}/cam"):
        follower = Follower(cluster.url, "cable")
        follower.result_after(0)
        (worker,) = cluster.workers()
        settled = min(_SETTLED_AFTER, times - 1)
        for _ in range(settled):
            trial.away_s.append(_pull(cable, follower))
        pools = frame_pools()
        for _ in range(_ROUNDS):
            trial.before = Footprint.of(worker)
            for _ in range(times - settled):
                trial.away_s.append(_pull(cable, follower))
                tell(min(len(trial.away_s), times))
            trial.after = Footprint.of(worker)
            growth = trial.after.growth(trial.before, memory_slack_mib=_MEMORY_SLACK_MIB)
            if not growth:
                break
        trial.problems += growth
        if cluster.workers() != [worker]:
            trial.problems.append("the stream's process was replaced")
        if frame_pools_remain(pools):
            trial.problems.append("frame pools are left over")
        status = cluster.status("cable")
    follower.close()
    if not follower.is_in_order:
        trial.problems.append("results arrived twice or out of order")
    if status.reconnects < len(trial.away_s):
        trial.problems.append(f"only {status.reconnects} of {len(trial.away_s)} reconnects were counted")
    return trial


def _pull(cable: Relay, follower: Follower) -> float:
    """Unplug the camera and plug it in again.

    Return the seconds between plugging it in and the result of a new frame.
    """
    pulled_at_s = time.time()
    cable.unplug()
    follower.wait_for(partial(_is_reconnecting_since, pulled_at_s))
    time.sleep(random.uniform(0, _LONGEST_PULL_S))  # the camera returns at a random point of the back-off
    cable.plug()
    returned_at_s = time.time()
    return follower.result_after(returned_at_s).at_s - returned_at_s


def _is_reconnecting(event: StreamEvent) -> bool:
    return isinstance(event.data, StateChange) and event.data.state == "reconnecting"


def _is_reconnecting_since(since_at_s: float, event: StreamEvent) -> bool:
    return event.at_s > since_at_s and _is_reconnecting(event)

"""A camera's cable is pulled out and put back, again and again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from scripts.trials.cluster import SLACK, Cluster, Footprint, frame_pools, stream
from scripts.trials.follower import Follower
from scripts.trials.relay import Relay
from serve_app.client import StreamEvent
from serve_app.schemas.streams import StateChange

_SETTLED_AFTER = 3  # disconnects: by then everything that is opened once is open
LEAST = _SETTLED_AFTER + SLACK + 1  # disconnects that show what each of them leaves
_ROUNDS = 3  # in each of which a process must hold more before we say that disconnects leave something behind
_LONGEST_PULL_S = 2.0
_MEMORY_SLACK_MIB = 20.0  # allocators keep some of what was given back


@dataclass
class Disconnects:
    """How it went."""

    away_s: list[float] = field(default_factory=list)  # from the cable's return to the next frame's result
    before: Footprint | None = None  # of the stream's process, settled
    after: Footprint | None = None
    problems: list[str] = field(default_factory=list)


def disconnect(cluster: Cluster, camera_port: int, times: int, tell: Callable[[int], None]) -> Disconnects:
    """Pull the cable so many times. ``tell`` hears how many there were.

    A pool that still fills holds more threads afterwards, once. What each disconnect leaves behind grows in every
    round: where the process holds more, another round shows which of the two it is.
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
        if frame_pools() != pools:
            trial.problems.append("other frame pools than before")
        status = cluster.status("cable")
    follower.close()
    if not follower.is_in_order:
        trial.problems.append("results came out of order, or twice")
    if status.reconnects < len(trial.away_s):
        trial.problems.append(f"{status.reconnects} reconnects were counted, of {len(trial.away_s)}")
    return trial


def _pull(cable: Relay, follower: Follower) -> float:
    """Pull the cable and put it back. Return how many seconds after that the next frame's result was captured."""
    pulled_s = time.time()
    cable.unplug()
    follower.wait_for(partial(_is_reconnecting_since, pulled_s))
    time.sleep(random.uniform(0, _LONGEST_PULL_S))  # the back-off is anywhere when the camera returns
    cable.plug()
    back_s = time.time()
    return follower.result_after(back_s).at_s - back_s


def _is_reconnecting(event: StreamEvent) -> bool:
    return isinstance(event.data, StateChange) and event.data.state == "reconnecting"


def _is_reconnecting_since(since_s: float, event: StreamEvent) -> bool:
    return event.at_s > since_s and _is_reconnecting(event)

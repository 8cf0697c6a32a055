"""Kill every kind of process by SIGKILL while clients post images and a stream runs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from scripts.trials.clients import Clients, Death, Request, clients, losses
from scripts.trials.cluster import Cluster, stream, until
from scripts.trials.follower import Follower, written

VICTIMS = ("StreamWorker", "StreamSupervisor", "Detector", "Preprocessor", "ServeController", "Ingress", "HAProxy")
_CLIENTS = 4
_CALM_S = 2.0  # the pause before each kill


@dataclass
class Deaths:
    """The effects of killing one kind of process."""

    away_s: list[float] = field(
        default_factory=list
    )  # for each kill: the time until the stream's follower gets the result of a frame captured after the kill
    slowest_s: list[float] = field(default_factory=list)  # for each kill: the duration of the slowest request
    cut: Counter[str] = field(default_factory=Counter)  # errors of requests in flight at the kill
    failed: Counter[str] = field(default_factory=Counter)  # errors of requests sent after the kill


@dataclass
class Kills:
    """The results of the trial."""

    deaths: dict[str, Deaths] = field(default_factory=dict)  # for each kind of process, the effects of its kills
    requests: int = 0
    lost: int = 0  # captured frames without a result, as counted by gap events
    gaps: int = 0
    frames: int = 0  # frames with a result
    problems: list[str] = field(default_factory=list)


def kill(
    cluster: Cluster,
    video: Path,
    picture: bytes,
    output_dir: Path,
    victims: tuple[str, ...],
    times: int,
    tell: Callable[[int], None],
) -> Kills:
    """Kill a process of each kind in ``victims``, and repeat this ``times`` times.

    No frame may appear twice in the file that the stream writes below ``output_dir``. A request may fail only if it
    was in flight when an Ingress or HAProxy was killed, because these processes hold the clients' connections. Any
    other failure is a problem.
    """
    trial = Kills({victim: Deaths() for victim in victims})
    done = 0
    deaths: list[Death] = []
    with (
        stream(cluster, "killed", video, loop=True, sinks=[{"type": "jsonl"}]),
        clients(cluster.url, picture, _CLIENTS) as crowd,
    ):
        follower = Follower(cluster.url, "killed")
        follower.result_after(0)
        for victim in (victim for _ in range(times) for victim in victims):
            time.sleep(_CALM_S)
            deaths.append(_kill_one(cluster, victim, crowd, follower, trial.deaths[victim]))
            done += 1
            tell(done)
        status = until(lambda: cluster.status("killed"), what="the stream's status")
    follower.close()
    _judge(trial, crowd.requests, deaths)
    events = written(output_dir, "killed")
    gaps = [event for event in events if event["type"] == "gap"]
    frame_ids = [event["frame_id"] for event in events if event["type"] == "result"]
    trial.lost, trial.gaps, trial.frames = sum(gap["lost"] for gap in gaps), len(gaps), len(frame_ids)
    if frame_ids != sorted(set(frame_ids)):
        trial.problems.append("a frame has two results, or results are out of order")
    if not follower.is_in_order:
        trial.problems.append("a follower received a frame twice or out of order")
    if victims.count("StreamWorker") * times != status.restarts:
        trial.problems.append(
            f"{status.restarts} restarts of the stream were counted instead of {victims.count('StreamWorker') * times}"
        )
    if set(status.dropped) - {"restart"}:
        trial.problems.append(f"frames were dropped: {status.dropped}")
    if status.dropped.get("restart", 0) != trial.lost:
        trial.problems.append(
            f"the status counts {status.dropped.get('restart', 0)} lost frames, and gap events count {trial.lost}"
        )
    return trial


def _kill_one(cluster: Cluster, victim: str, crowd: Clients, follower: Follower, seen: Deaths) -> Death:
    killed = cluster.kill_one(victim)
    killed_at_s = time.time()
    # A result that was in flight at the kill may still arrive. Only a later frame's result shows that the new process
    # works.
    seen.away_s.append(follower.result_after(killed_at_s).at_s - killed_at_s)
    killed.wait_for_successor()
    answered = len(crowd.requests)
    until(lambda: len(crowd.requests) >= answered + 2 * _CLIENTS, what="answers to requests sent after the kill")
    return killed.death


def _judge(trial: Kills, requests: Sequence[Request], deaths: Sequence[Death]) -> None:
    """Record the slowest request after each kill, and attribute failed requests to kills.

    Call this after all requests have ended.
    """
    trial.requests = len(requests)
    for death, following in pairwise([*deaths, Death("", math.inf, math.inf)]):
        took_s = [
            one.ended_at_s - one.started_at_s for one in requests if death.at_s <= one.ended_at_s <= following.at_s
        ]
        trial.deaths[death.victim].slowest_s.append(max(took_s, default=0.0))
    for loss in losses(requests, deaths):
        if not loss.is_excused:
            trial.problems.append(f"after the death of {loss.victim or 'no process'}: a request got {loss.problem}")
        if loss.victim:
            seen = trial.deaths[loss.victim]
            (seen.cut if loss.was_cut else seen.failed)[loss.problem] += 1

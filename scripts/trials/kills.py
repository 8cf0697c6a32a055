"""SIGKILL for a stream's process, for the StreamSupervisor, for the Detector."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from scripts.trials.cluster import Cluster, stream, until
from scripts.trials.follower import Follower

VICTIMS = ("StreamWorker", "StreamSupervisor", "Detector")
_CALM_S = 2.0  # between kills


@dataclass
class Kills:
    """How it went."""

    away_s: dict[str, list[float]] = field(default_factory=dict)  # by victim: to the next frame's result at a client
    lost: int = 0  # frames that were captured and have no result, as the events say
    gaps: int = 0
    frames: int = 0  # that have a result
    problems: list[str] = field(default_factory=list)


def kill(
    cluster: Cluster, video: Path, output_dir: Path, victims: tuple[str, ...], times: int, tell: Callable[[int], None]
) -> Kills:
    """Each of the victims in turn, so many times, under a stream that wants every frame of a video, in a loop.

    What the stream wrote into its file below ``output_dir`` is what counts: no frame may be in it twice.
    """
    trial = Kills({victim: [] for victim in victims})
    done = 0
    with stream(cluster, "killed", video, loop=True, sinks=[{"type": "jsonl"}]):
        follower = Follower(cluster.url, "killed")
        follower.result_after(0)
        for victim in (victim for _ in range(times) for victim in victims):
            time.sleep(_CALM_S)
            process = _process(cluster, victim)
            process.kill()
            killed_s = time.time()
            # What was under way when it died may still arrive; a frame captured later needs its successor.
            trial.away_s[victim].append(follower.result_after(killed_s).at_s - killed_s)
            until(lambda killed=process, victim=victim: _process(cluster, victim) != killed, what=f"a new {victim}")
            done += 1
            tell(done)
        status = until(lambda: cluster.status("killed"), what="its status")
    follower.close()
    lines = (output_dir / "killed.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    gaps = [event for event in events if event["type"] == "gap"]
    frame_ids = [event["frame_id"] for event in events if event["type"] == "result"]
    trial.lost, trial.gaps, trial.frames = sum(gap["lost"] for gap in gaps), len(gaps), len(frame_ids)
    if frame_ids != sorted(set(frame_ids)):
        trial.problems.append("a frame has two results, or they are out of order")
    if follower.frame_ids() != sorted(set(follower.frame_ids())):
        trial.problems.append("a client saw a frame twice, or out of order")
    if victims.count("StreamWorker") * times != status.restarts:
        trial.problems.append(f"{status.restarts} restarts were counted")
    if set(status.dropped) - {"restart"}:
        trial.problems.append(f"frames were dropped: {status.dropped}")
    if status.dropped.get("restart", 0) != trial.lost:
        trial.problems.append(f"{status.dropped.get('restart', 0)} frames were lost, and {trial.lost} are in gaps")
    return trial


def _process(cluster: Cluster, victim: str) -> psutil.Process:
    look = cluster.workers if victim == "StreamWorker" else lambda: cluster.replicas(victim)
    return until(look, what=f"a {victim}")[0]

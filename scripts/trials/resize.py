"""Add a second Ray node under load, let it take a share of the load, drain it, and check that no frame is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scripts.launch import ROOT, ray_address, raylet_flag
from scripts.trials.clients import clients
from scripts.trials.cluster import Cluster, stream, until
from scripts.trials.follower import Follower, written
from scripts.trials.node import own_memory, second_node

# Each deployment has one replica per node. The second replica waits until the second node joins.
SPREAD = {name: {"num_replicas": 2, "max_replicas_per_node": 1} for name in ("Ingress", "Preprocessor", "Detector")}
_STREAMS = 4
_CLIENTS = 4
_WORK = 20  # images that the node's engine must process before the node counts as working
_DEADLINE_S = 60  # the deadline for draining a node, longer than the replicas' shutdown timeouts
_ENDS_WITHIN_S = 120.0
_CALM_S = 5.0  # the time for which the load continues after the node has ended


@dataclass
class Resize:
    """The results of the trial."""

    requests: int = 0  # the number of requests of the clients that post images
    joined_s: list[float] = field(default_factory=list)  # for each node: from joining to processing images
    moved: int = 0  # the number of streams that were on the drained nodes
    away_s: list[float] = field(
        default_factory=list
    )  # for each moved stream: the time from the last result on the drained node to the first result elsewhere
    moved_s: list[float] = field(
        default_factory=list
    )  # for each moved stream: the time from the start of the drain to the first result on another node
    drain_s: list[float] = field(default_factory=list)  # for each node: from the drain to the node's end
    frames: int = 0  # frames with a result
    lost: int = 0  # captured frames without a result, as counted by gap events
    unseen: int = 0  # frames whose result a follower did not fetch before the stream's process ended
    crossings: int = 0  # frames that were sent to the other node as bytes
    problems: list[str] = field(default_factory=list)


def resize(
    cluster: Cluster,
    video: Path,
    picture: bytes,
    output_dir: Path,
    deployments: Collection[str],
    times: int,
    tell: Callable[[int], None],
) -> Resize:
    """Add a node, run replicas of ``deployments`` and half of the streams there, and drain the node.

    Repeat this ``times`` times. Meanwhile, clients post images. Every frame of a stream that was on the node must have
    exactly one result.
    """
    starter = own_memory()
    trial = Resize()
    crossed = cluster.total("sightline_crossings")
    with clients(cluster.url, picture, _CLIENTS) as crowd:
        for done in range(times):
            with second_node(cluster, video.with_name("node.log"), starter) as node:
                names = [f"resize-{done}-{number}" for number in range(_STREAMS)]
                _use_and_drain(cluster, node, names, video, output_dir, deployments, trial)
            tell(done + 1)
        time.sleep(_CALM_S)
    trial.requests = len(crowd.requests)
    trial.problems += crowd.problems
    trial.crossings = cluster.total("sightline_crossings") - crossed
    if starter and not trial.crossings:
        trial.problems.append("no frame was sent from one node to the other")
    return trial


def _use_and_drain(
    cluster: Cluster,
    node: subprocess.Popen[bytes],
    names: Sequence[str],
    video: Path,
    output_dir: Path,
    deployments: Collection[str],
    trial: Resize,
) -> None:
    joined_at_s = time.time()
    there = Cluster(cluster.url, node.pid)
    for deployment in deployments:
        until(partial(there.replicas, deployment), what=f"a {deployment} on the second node")
    if "Detector" in deployments:
        until(lambda: there.total("sightline_inferences") >= _WORK, what="the second node to process images")
    trial.joined_s.append(time.time() - joined_at_s)
    with ExitStack() as streams:
        followers = {}
        for name in names:
            streams.enter_context(stream(cluster, name, video, loop=True, sinks=[{"type": "jsonl"}]))
            followers[name] = Follower(cluster.url, name)
        for follower in followers.values():
            follower.result_after(0)
        count = len(there.workers())
        if count != _STREAMS // 2:
            trial.problems.append(f"{count} streams were on the second node instead of {_STREAMS // 2}")
        drained_at_s = time.time()
        _drain(cluster, node)
        until(lambda: not there.workers(), what="the node's streams to end there")
        until(lambda: len(_moved(followers)) >= count, what="the streams to continue elsewhere")
        until(lambda: not there.named("raylet"), within_s=_ENDS_WITHIN_S, what="the node to end by itself")
        trial.drain_s.append(time.time() - drained_at_s)
        for follower in followers.values():
            follower.result_after(time.time())
        moved = _moved(followers)
        statuses = {name: until(partial(cluster.status, name), what="the stream's status") for name in followers}
    for name, follower in followers.items():
        follower.close()
        if statuses[name].restarts or statuses[name].dropped:
            trial.problems.append(
                f"{name}: {statuses[name].restarts} restarts; dropped frames: {statuses[name].dropped}"
            )
        _judge(name, follower, output_dir, trial)
    for name in moved:
        trial.moved += 1
        _measure(followers[name], drained_at_s, trial)


def _moved(followers: dict[str, Follower]) -> set[str]:
    """Return the streams that have reported a gap event. A stream reports a gap event after the stream has moved."""
    return {name for name, one in followers.items() if any(seen.event.type == "gap" for seen in one.seen)}


def _drain(cluster: Cluster, node: subprocess.Popen[bytes]) -> None:
    """Drain the node with a deadline of one minute, as cloud providers do before they reclaim a machine."""
    flags = f"--address={ray_address(cluster.pid)} --node-id={raylet_flag(node.pid, 'node_id')}"
    reason = "--reason=DRAIN_NODE_REASON_PREEMPTION --reason-message=trial"
    script = f"source configs/serve.env; exec .venv/bin/ray drain-node {flags} {reason}"
    command = ["bash", "-c", f"{script} --deadline-remaining-seconds={_DEADLINE_S}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def _judge(name: str, follower: Follower, output_dir: Path, trial: Resize) -> None:
    """Check that the stream's file has each frame once, and that the follower received its frames in order."""
    frame_ids = [event["frame_id"] for event in written(output_dir, name) if event["type"] == "result"]
    seen = follower.frame_ids()
    if frame_ids != list(range(len(frame_ids))):
        trial.problems.append(f"{name}: a frame has two results or none")
    if not follower.is_in_order:
        trial.problems.append(f"{name}: a follower received a frame twice or out of order")
    trial.frames += len(frame_ids)
    trial.unseen += len(set(range(max(seen))) - set(seen))


def _measure(follower: Follower, drained_at_s: float, trial: Resize) -> None:
    """Measure the interruption around the gap event, which precedes the first result from the other node."""
    types = [seen.event.type for seen in follower.seen]
    gap = types.index("gap")
    before = gap - 1 - types[gap - 1 :: -1].index("result")
    after = types.index("result", gap)
    trial.away_s.append(follower.seen[after].at_s - follower.seen[before].at_s)
    trial.moved_s.append(follower.seen[after].at_s - drained_at_s)
    trial.lost += follower.gap().lost

"""Run many cameras, of which one freezes, one refuses connections and one sends garbage."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from scripts.trials.cluster import Cluster, stream, until
from scripts.trials.listener import listening
from scripts.trials.relay import Relay
from serve_app.schemas.streams import StreamStatus

_START_TIMEOUT_S = 300.0  # long, because many processes start at once
# All healthy streams watch the same camera. The slowest of them must capture at least this fraction of the frames that
# the fastest of them captures.
_FAIR_SHARE = 0.9
_CALM_S = 5.0  # the time for which all streams run before anything breaks
BROKEN = {"frozen": "stalled", "refusing": "reconnecting", "garbage": "failed"}


@dataclass
class Crowd:
    """The results of the trial, measured while some of the streams were broken."""

    states: dict[str, str] = field(default_factory=dict)  # the state and the detail of each broken stream
    captured: int = 0
    processed: int = 0
    dropped: int = 0
    problems: list[str] = field(default_factory=list)


def crowd(cluster: Cluster, camera_port: int, count: int, duration_s: float, tell: Callable[[float], None]) -> Crowd:
    """Run ``count`` streams of a camera, and break three of these streams for ``duration_s`` seconds.

    ``tell`` is called every second with the number of seconds that have passed.
    """
    trial = Crowd()
    healthy = [f"healthy-{number}" for number in range(count - len(BROKEN))]
    with ExitStack() as stack:
        cables = {name: stack.enter_context(Relay(camera_port)) for name in ("frozen", "refusing")}
        garbage_port = stack.enter_context(listening(_send_garbage))
        ports = {name: cable.port for name, cable in cables.items()} | {"garbage": garbage_port}
        for name, port in (ports | dict.fromkeys(healthy, camera_port)).items():
            scheme, path = ("tcp", "") if name == "garbage" else ("rtsp", "/cam")
            stack.enter_context(stream(cluster, name, f"{scheme}://127.0.0.1:{port}{path}"))
        until(lambda: _all_run(cluster, [*healthy, *cables]), within_s=_START_TIMEOUT_S, what="all streams to run")
        time.sleep(_CALM_S)
        cables["frozen"].freeze()
        cables["refusing"].unplug()
        before = _by_id(cluster)
        for second in range(int(duration_s)):
            time.sleep(1)
            tell(second + 1)
        after = _by_id(cluster)
        trial.states = {name: f"{after[name].state}: {after[name].detail}" for name in BROKEN}
        cables["frozen"].thaw()
    seen = {name: after[name].captured - before[name].captured for name in healthy}
    for name in healthy:
        if seen[name] < _FAIR_SHARE * max(seen.values()):
            trial.problems.append(
                f"{name} captured {seen[name]} frames, while another stream captured {max(seen.values())}"
            )
        trial.captured += after[name].captured - before[name].captured
        trial.processed += after[name].processed - before[name].processed
        trial.dropped += sum(after[name].dropped.values()) - sum(before[name].dropped.values())
        if after[name].state != "running":
            trial.problems.append(f"{name} is {after[name].state}: {after[name].detail}")
        if after[name].reconnects:
            trial.problems.append(f"{name} reconnected {after[name].reconnects} times, although its camera was healthy")
    trial.problems += [
        f"{name} is {after[name].state}, and should be {state}"
        for name, state in BROKEN.items()
        if after[name].state != state
    ]
    if trial.dropped:
        trial.problems.append(f"healthy streams dropped {trial.dropped} frames")
    if not trial.processed:
        trial.problems.append("healthy streams processed no frames")
    return trial


def _by_id(cluster: Cluster) -> dict[str, StreamStatus]:
    return {status.stream_id: status for status in cluster.streams()}


def _all_run(cluster: Cluster, ids: list[str]) -> bool:
    streams = _by_id(cluster)
    return all(streams[name].state == "running" for name in ids)


def _send_garbage(connection: socket.socket) -> None:
    connection.sendall(os.urandom(1 << 20))

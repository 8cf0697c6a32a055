"""Kill a second Ray node that runs half of the streams, and check that they continue on the first."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from scripts.launch import ROOT, StartFailed, ray_address
from scripts.trials.clients import clients
from scripts.trials.cluster import Cluster, stream, until
from scripts.trials.follower import Follower
from serve_app.ipc import dev_shm

SEVERAL_NODES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # without it, configs/serve.env keeps Ray on loopback
_STREAMS = 4
_CLIENTS = 2
_STARTED = "Ray runtime started"  # what ray start prints when the node has joined
_CURRENT = Path("/tmp/ray/ray_current_cluster")  # ray start records its cluster here, and the next Ray would join it
_OBJECT_STORE_BYTES = 100 << 20


@dataclass
class NodeLoss:
    """The results of the trial."""

    moved: int = 0  # streams that were on the node
    away_s: list[float] = field(
        default_factory=list
    )  # for each of them: from the kill until a client gets a later frame's result
    lost: int = 0  # captured frames without a result, as counted by gap events
    requests: int = 0  # for images
    problems: list[str] = field(default_factory=list)


def lose_node(cluster: Cluster, video: Path, picture: bytes, times: int, tell: Callable[[int], None]) -> NodeLoss:
    """Add a node, start streams on it and kill all of its processes at once, ``times`` times.

    Meanwhile clients post images, which are answered by replicas on the first node only.
    """
    trial = NodeLoss()
    with clients(cluster.url, picture, _CLIENTS) as crowd:
        _lose(cluster, video, times, tell, trial)
    trial.requests = len(crowd.requests)
    trial.problems += crowd.problems
    return trial


def _lose(cluster: Cluster, video: Path, times: int, tell: Callable[[int], None], trial: NodeLoss) -> None:
    for done in range(times):
        with second_node(cluster, video.with_name("node.log")) as node, ExitStack() as streams:
            followers = {}
            for name in (f"spread-{number}" for number in range(_STREAMS)):
                streams.enter_context(stream(cluster, name, video, loop=True))
                followers[name] = Follower(cluster.url, name)
            for follower in followers.values():
                follower.result_after(0)
            there = len(Cluster(cluster.url, node.pid).workers())
            if there != _STREAMS // 2:
                trial.problems.append(f"{there} of {_STREAMS} streams were on the second node")
            kill_all(node)
            killed_at_s = time.time()
            for name, follower in followers.items():
                away_s = follower.result_after(killed_at_s).at_s - killed_at_s
                if until(partial(cluster.status, name), what="the stream's status").restarts:
                    trial.moved += 1
                    trial.away_s.append(away_s)
                    trial.lost += follower.gap().lost
        for name, follower in followers.items():
            follower.close()
            if not follower.is_in_order:
                trial.problems.append(f"{name}: a follower received a frame twice or out of order")
        tell(done + 1)
    if trial.moved != times * _STREAMS // 2:
        trial.problems.append(f"{trial.moved} streams were taken over, not {times * _STREAMS // 2}")


def own_memory() -> list[str]:
    """Return the start of a command that gives a program its own /dev/shm, as on another machine.

    It is empty where the kernel does not allow that.
    """
    command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
    try:
        return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else []
    except FileNotFoundError:
        return []


@contextmanager
def second_node(cluster: Cluster, log: Path, starter: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Start a second node and yield its process once it has joined.

    ``starter`` is put in front of its command. Raise StartFailed when the node does not start.
    """
    address = ray_address(cluster.pid)
    command = [*starter, ROOT / ".venv/bin/ray", "start", "--block", f"--address={address}", "--num-cpus=1"]
    command += [f"--object-store-memory={_OBJECT_STORE_BYTES}", "--disable-usage-stats"]
    script = f"export {SEVERAL_NODES}=1; source configs/serve.env; exec {shlex.join(map(str, command))}"
    before = _CURRENT.read_text() if _CURRENT.exists() else None
    log.unlink(missing_ok=True)
    with log.open("w") as output:
        node = subprocess.Popen(["bash", "-c", script], cwd=ROOT, stdout=output, stderr=output)
    try:
        until(lambda: node.poll() is not None or _STARTED in log.read_text(), what="a second node")
        if node.poll() is not None:
            raise StartFailed(f"the second node did not start; see {log}")
        yield node
    finally:
        kill_all(node)
        dev_shm.sweep()
        _CURRENT.unlink(missing_ok=True)
        if before is not None:
            _CURRENT.write_text(before)


def kill_all(node: subprocess.Popen[bytes]) -> None:
    """Kill the node and all of its processes, if it still runs."""
    if node.poll() is None:
        root = psutil.Process(node.pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                process.kill()
    node.wait()

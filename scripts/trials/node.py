"""Kill a second Ray node that runs half of the streams, and check that these streams continue on the first node."""

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

SEVERAL_NODES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # without this variable, configs/serve.env keeps Ray on loopback
_STREAMS = 4
_CLIENTS = 2
_STARTED = "Ray runtime started"  # ``ray start`` prints this when the node has joined
# ``ray start`` records its cluster in this file. We restore the file afterwards, because programs that start Ray later
# would otherwise join that cluster.
_CURRENT = Path("/tmp/ray/ray_current_cluster")
_OBJECT_STORE_BYTES = 100 << 20


@dataclass
class NodeLoss:
    """The results of the trial."""

    moved: int = 0  # the number of streams that were on the killed nodes
    away_s: list[float] = field(
        default_factory=list
    )  # for each moved stream: the time from the kill to the first result of a frame captured after the kill
    lost: int = 0  # captured frames without a result, as counted by gap events
    requests: int = 0  # the number of requests of the clients that post images
    problems: list[str] = field(default_factory=list)


def lose_node(cluster: Cluster, video: Path, picture: bytes, times: int, tell: Callable[[int], None]) -> NodeLoss:
    """Add a node, start streams on it and kill all of its processes at once. Repeat this ``times`` times.

    Meanwhile, clients post images. Only replicas on the first node answer these requests.
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
                trial.problems.append(f"{there} streams were on the second node instead of {_STREAMS // 2}")
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
        trial.problems.append(f"{trial.moved} streams were taken over instead of {times * _STREAMS // 2}")


def own_memory() -> list[str]:
    """Return a command prefix that gives a program its own /dev/shm, as on another machine.

    The prefix is empty if the system cannot give a program its own /dev/shm.
    """
    command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
    try:
        return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else []
    except FileNotFoundError:
        return []


@contextmanager
def second_node(cluster: Cluster, log: Path, starter: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Start a second node and yield its process once it has joined.

    ``starter`` is a prefix of the command that starts the node. Raise StartFailed if the node does not start.
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
        dev_shm.sweep_all()
        _CURRENT.unlink(missing_ok=True)
        if before is not None:
            _CURRENT.write_text(before)


def kill_all(node: subprocess.Popen[bytes]) -> None:
    """Kill all processes of the node, if the node is still running."""
    if node.poll() is None:
        root = psutil.Process(node.pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                process.kill()
    node.wait()

"""The application under trial: its HTTP API, its processes and the resources that each process holds."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from scripts.trials.clients import Death
from serve_app.cli.deploy import APPLICATIONS, dashboard
from serve_app.client import Client, SightlineError
from serve_app.ipc import dev_shm
from serve_app.schemas.streams import StreamStatus
from serve_app.types import Json

T = TypeVar("T")
APPLICATION = "sightline"
SLACK = 2  # growth by this many descriptors or threads is not a leak, because Ray often opens and closes some
_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.05


@dataclass(frozen=True)
class Footprint:
    """The resources that a process holds."""

    descriptors: int
    threads: int
    memory_mib: float  # without shared memory, such as the slots of the frame pool

    @classmethod
    def of(cls, process: psutil.Process) -> Footprint:
        """Measure the resources that a process holds now."""
        memory = process.memory_info()
        return cls(process.num_fds(), process.num_threads(), (memory.rss - memory.shared) / 2**20)

    def growth(self, before: Footprint, memory_slack_mib: float = math.inf) -> list[str]:
        """Describe each resource that has grown since ``before`` by more than its slack."""
        found = []
        if self.descriptors > before.descriptors + SLACK:
            found.append(f"descriptors grew from {before.descriptors} to {self.descriptors}")
        if self.threads > before.threads + SLACK:
            found.append(f"threads grew from {before.threads} to {self.threads}")
        if self.memory_mib > before.memory_mib + memory_slack_mib:
            found.append(f"memory grew from {before.memory_mib:.0f} to {self.memory_mib:.0f} MiB")
        return found


@dataclass(frozen=True)
class Cluster:
    """A running application, whose processes are descendants of process ``pid``."""

    url: str
    pid: int
    dashboard_url: str = ""

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the processes with this title, ignoring the method name that Ray appends to titles."""
        return self._matching(lambda process: (process.cmdline() or [""])[0].partition(".")[0] == f"ray::{title}")

    def named(self, name: str) -> list[psutil.Process]:
        """Return the processes that run the program ``name``."""
        return self._matching(lambda process: process.name() == name)

    def _matching(self, matches: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.Error):  # the process may end while we inspect it
                if matches(process):
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """Return the processes that run the streams."""
        return self.processes("StreamWorker")

    def alive(self, kind: str) -> list[psutil.Process]:
        """Return the processes of ``kind``: a deployment, ``StreamWorker``, ``ServeController`` or ``HAProxy``."""
        if kind == "HAProxy":
            return self.named("haproxy")
        return self.processes(kind) if kind in {"StreamWorker", "ServeController"} else self.replicas(kind)

    def kill_one(self, kind: str) -> Killed:
        """Kill one process of ``kind`` by SIGKILL, and wait until the process has ended."""
        before = until(lambda: self.alive(kind), what=f"a {kind}")
        at_s = time.monotonic()
        before[0].kill()
        before[0].wait(_TIMEOUT_S)
        return Killed(self, Death(kind, at_s, time.monotonic()), before)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Return the processes of a deployment's replicas."""
        return self.processes(f"ServeReplica:{APPLICATION}:{deployment}")

    def detectors(self) -> tuple[int, int]:
        """Return Serve's target number of Detectors, and the number of running Detectors, according to Ray's dashboard.

        Raise httpx.HTTPError when the dashboard does not answer.
        """
        with dashboard(self.dashboard_url) as http:
            return detectors(http.get(APPLICATIONS).raise_for_status().json(), APPLICATION)

    def create(self, stream_id: str, uri: Path | str, *, loop: bool = False, **fields: Any) -> None:
        """Create a stream that processes the source at ``uri``."""
        spec = {"id": stream_id, "source": {"uri": str(uri), "loop": loop}, "degrade": True} | fields
        with Client(self.url) as client:
            client.streams.create(spec)

    def delete(self, stream_id: str) -> None:
        """Delete a stream, which ends its process."""
        with Client(self.url) as client:
            client.streams.delete(stream_id)

    def status(self, stream_id: str) -> StreamStatus:
        """Return the status of a stream."""
        with Client(self.url) as client:
            return client.streams.status(stream_id)

    def streams(self) -> list[StreamStatus]:
        """Return the status of every stream."""
        with Client(self.url) as client:
            return client.streams.list()

    def series_of(self, stream_id: str) -> Counter[str]:
        """Return, for each metric, the number of its series whose stream id begins with ``stream_id``."""
        return Counter(re.findall(rf'^(\w+)\{{.*"{re.escape(stream_id)}', self._metrics(), re.MULTILINE))

    def total(self, metric: str) -> int:
        """Return the sum of a counter's series over all of Ray's node agents."""
        values = re.findall(rf"^ray_{metric}_total\{{.*\}} (\S+)", self._metrics(), re.MULTILINE)
        return int(sum(map(float, values)))

    def _metrics(self) -> str:
        urls = [f"http://127.0.0.1:{port}/metrics" for port in self._metrics_ports()]
        return "".join(httpx.get(url, timeout=_TIMEOUT_S, trust_env=False).text for url in urls)

    def _metrics_ports(self) -> Iterator[int]:
        for agent in self.processes("DashboardAgent"):
            for socket in agent.net_connections("tcp"):
                if socket.status == psutil.CONN_LISTEN and socket.laddr.ip in {"0.0.0.0", "127.0.0.1"}:
                    with suppress(httpx.HTTPError):
                        url = f"http://127.0.0.1:{socket.laddr.port}/metrics"
                        if httpx.get(url, timeout=_TIMEOUT_S, trust_env=False).status_code == 200:
                            yield socket.laddr.port


@dataclass(frozen=True)
class Killed:
    """A killed process, and all processes of the same kind that ran before the kill."""

    cluster: Cluster
    death: Death
    before: list[psutil.Process]

    def wait_for_successor(self) -> None:
        """Wait until a new process has replaced the killed one. Raise TimeoutError if that takes too long."""
        until(self._is_replaced, what=f"a new {self.death.victim}")

    def _is_replaced(self) -> bool:
        now = self.cluster.alive(self.death.victim)
        return self.before[0] not in now and len(now) >= len(self.before)


def detectors(details: Json, application: str) -> tuple[int, int]:
    """Return the target number of Detectors, and the number of running Detectors, from Serve's REST API."""
    detector = details["applications"][application]["deployments"]["Detector"]
    running = sum(replica["state"] == "RUNNING" for replica in detector["replicas"])
    return detector["target_num_replicas"], running


@contextmanager
def stream(cluster: Cluster, stream_id: str, uri: Path | str, **fields: Any) -> Iterator[None]:
    """Run a stream while the ``with`` block runs, and then delete the stream."""
    cluster.create(stream_id, uri, **fields)
    try:
        yield
    finally:
        cluster.delete(stream_id)


def frame_pools() -> set[str]:
    """Return the names of the application's files in shared memory: frame pools and RPC sockets."""
    return {path.name for path in dev_shm.FOLDER.glob(f"{dev_shm.PREFIX}*")}


def frame_pools_remain(before: set[str]) -> bool:
    """Return whether there are still more frame pools than in ``before`` after some seconds.

    Other programs, for example unit tests, may use some for a moment. Only the numbers are compared, because a stream
    that is replaced has a new frame pool.
    """
    with suppress(TimeoutError):
        return not until(lambda: len(frame_pools()) <= len(before), within_s=10, what="the release of the frame pools")
    return True


def until(probe: Callable[[], T], *, within_s: float = 120.0, what: str) -> T:
    """Call ``probe`` until it returns a true value, and return that value.

    Raise TimeoutError, with ``what`` in the message, if that takes more than ``within_s`` seconds.
    """
    expires_at_s = time.monotonic() + within_s
    while time.monotonic() < expires_at_s:
        with suppress(SightlineError, httpx.HTTPError):  # the server may be restarting
            if value := probe():
                return value
        time.sleep(_POLL_INTERVAL_S)
    raise TimeoutError(f"timed out after {within_s:g} s waiting for {what}")

"""The application under trial: its HTTP API, its processes, and what each of them holds."""

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

from scripts.deploy import APPLICATIONS, dashboard
from scripts.trials.clients import Death
from serve_app.client import Client, SightlineError
from serve_app.ipc import dev_shm
from serve_app.schemas.streams import StreamStatus
from serve_app.types import Json

T = TypeVar("T")
APPLICATION = "sightline"
SLACK = 2  # descriptors, threads: Ray opens and ends some of its own, a connection or a pool's thread, at any moment
_TIMEOUT_S = 60.0
_LOOK_PERIOD_S = 0.05


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    descriptors: int
    threads: int
    memory_mib: float  # its own: not what it shares, as slots of the frame pool

    @classmethod
    def of(cls, process: psutil.Process) -> Footprint:
        """Now."""
        memory = process.memory_info()
        return cls(process.num_fds(), process.num_threads(), (memory.rss - memory.shared) / 2**20)

    def growth(self, before: Footprint, memory_slack_mib: float = math.inf) -> list[str]:
        """In words, what is open or runs now that did not before, and memory that grew by more than the slack."""
        found = []
        if self.descriptors > before.descriptors + SLACK:
            found.append(f"{before.descriptors} descriptors became {self.descriptors}")
        if self.threads > before.threads + SLACK:
            found.append(f"{before.threads} threads became {self.threads}")
        if self.memory_mib > before.memory_mib + memory_slack_mib:
            found.append(f"{before.memory_mib:.0f} MiB became {self.memory_mib:.0f}")
        return found


@dataclass(frozen=True)
class Cluster:
    """A running application; its processes are descendants of process ``pid``."""

    url: str
    pid: int
    dashboard_url: str = ""

    def processes(self, title: str) -> list[psutil.Process]:
        """Those that Ray gave this title; it appends the method that one is running."""
        return self._those(lambda process: (process.cmdline() or [""])[0].partition(".")[0] == f"ray::{title}")

    def named(self, name: str) -> list[psutil.Process]:
        """Those of a program."""
        return self._those(lambda process: process.name() == name)

    def _those(self, are_meant: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.Error):  # it ended while we looked
                if are_meant(process):
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The streams' processes."""
        return self.processes("StreamWorker")

    def alive(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind: a deployment, ``StreamWorker``, ``ServeController``, or ``HAProxy``."""
        if kind == "HAProxy":
            return self.named("haproxy")
        return self.processes(kind) if kind in {"StreamWorker", "ServeController"} else self.replicas(kind)

    def kill_one(self, kind: str) -> Killed:
        """SIGKILL for one process of a kind, which has ended then."""
        before = until(lambda: self.alive(kind), what=f"a {kind}")
        at_s = time.monotonic()
        before[0].kill()
        before[0].wait(_TIMEOUT_S)
        return Killed(self, Death(kind, at_s, time.monotonic()), before)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """A deployment's."""
        return self.processes(f"ServeReplica:{APPLICATION}:{deployment}")

    def detectors(self) -> tuple[int, int]:
        """How many Serve wants, and how many run, as Ray's dashboard says. Raises httpx.HTTPError."""
        with dashboard(self.dashboard_url) as http:
            return detectors(http.get(APPLICATIONS).raise_for_status().json(), APPLICATION)

    def create(self, stream_id: str, uri: Path | str, *, loop: bool = False, **fields: Any) -> None:
        """A new stream."""
        spec = {"id": stream_id, "source": {"uri": str(uri), "loop": loop}, "degrade": True} | fields
        with Client(self.url) as client:
            client.streams.create(spec)

    def delete(self, stream_id: str) -> None:
        """End a stream, and forget it."""
        with Client(self.url) as client:
            client.streams.delete(stream_id)

    def status(self, stream_id: str) -> StreamStatus:
        """What a stream says of itself."""
        with Client(self.url) as client:
            return client.streams.status(stream_id)

    def streams(self) -> list[StreamStatus]:
        """What all of them say."""
        with Client(self.url) as client:
            return client.streams.list()

    def series_of(self, stream_id: str) -> Counter[str]:
        """How many series of each metric Ray's node agents show that name a stream whose id begins so."""
        return Counter(re.findall(rf'^(\w+)\{{.*"{re.escape(stream_id)}', self._metrics(), re.MULTILINE))

    def total(self, metric: str) -> int:
        """The sum of a counter's series, as Ray's node agents show them."""
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
    """A process that was killed, among its like."""

    cluster: Cluster
    death: Death
    before: list[psutil.Process]

    def wait_for_successor(self) -> None:
        """Until there are as many again. Raises TimeoutError."""
        until(self._is_replaced, what=f"a new {self.death.victim}")

    def _is_replaced(self) -> bool:
        now = self.cluster.alive(self.death.victim)
        return self.before[0] not in now and len(now) >= len(self.before)


def detectors(details: Json, application: str) -> tuple[int, int]:
    """How many Serve wants, and how many run, of its own details."""
    detector = details["applications"][application]["deployments"]["Detector"]
    running = sum(replica["state"] == "RUNNING" for replica in detector["replicas"])
    return detector["target_num_replicas"], running


@contextmanager
def stream(cluster: Cluster, stream_id: str, uri: Path | str, **fields: Any) -> Iterator[None]:
    """A stream for the length of a block."""
    cluster.create(stream_id, uri, **fields)
    try:
        yield
    finally:
        cluster.delete(stream_id)


def frame_pools() -> set[str]:
    """What of ours lies in shared memory: frame pools and sockets of calls."""
    return {path.name for path in dev_shm.FOLDER.glob(f"{dev_shm.PREFIX}*")}


def until(look: Callable[[], T], *, within_s: float = 120.0, what: str) -> T:
    """The first true value that ``look`` returns. Raises TimeoutError."""
    expires_s = time.monotonic() + within_s
    while time.monotonic() < expires_s:
        with suppress(SightlineError, httpx.HTTPError):  # what answers may just be away
            if value := look():
                return value
        time.sleep(_LOOK_PERIOD_S)
    raise TimeoutError(f"{what}: not within {within_s:g} s")

"""Fake stream workers and Detectors, which run in the test's process and which the test controls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from serve_app.config import StreamArgs
from serve_app.errors import ServeAppError, Unavailable
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import Regions, SourceSpec, State, StreamResult, StreamSpec, StreamStatus
from serve_app.streams.store import Record, StreamStore
from serve_app.streams.supervision import Supervision
from serve_app.streams.workers import WorkerDied, WorkerError, WorkerNotKilled, WorkerUnreachable
from serve_app.types import Event, EventPage, ModelInfo, Snapshot
from serve_app.video.source import Source
from tests.support.fakes import MODEL

TEST_TIMEOUT_S = 100_000.0  # in virtual time


def now_s() -> float:
    """Return the time of the event loop."""
    return asyncio.get_running_loop().time()


def spec_of(stream_id: str = "lot", **fields: Any) -> StreamSpec:
    """Return the spec of a stream from a camera that does not exist."""
    return StreamSpec(**{"id": stream_id, "source": SourceSpec(uri=f"rtsp://host/{stream_id}")} | fields)


class FakeWorker:
    """A fake worker process. It runs until the test ends its stream or kills the process."""

    def __init__(self, name: str, record: Record, node: str) -> None:
        self.name, self.record, self.on_node = name, record, node
        self.started_at_s = now_s()
        self.regions = Regions(zones=record.spec.zones, lines=record.spec.lines)
        self.calls: list[str] = []
        self.ready_after_s = 0.0
        self.stop_takes_s = 0.0
        self.picture = b"jpeg"
        self.latest: StreamResult | None = None  # the latest result in the status
        self.answers_status = True  # if False, calls of ``status`` hang
        self.is_unreachable = False
        self.refusals: dict[str, ServeAppError] = {}  # errors to raise, by the name of the method
        self._ran = asyncio.Event()  # set when ``run`` must return or raise an error
        self._outcome: StreamStatus | WorkerError | ServeAppError | None = None

    @property
    def is_dead(self) -> bool:
        return isinstance(self._outcome, WorkerDied)

    def die(self) -> None:
        """Make the process die."""
        self._end(WorkerDied("killed"))

    def fail(self, error: WorkerError | ServeAppError) -> None:
        """Make ``run`` raise an error, while the process stays alive."""
        self._end(error)

    def finish(self, state: State = "completed") -> None:
        """End the stream, while the process stays alive."""
        self._end(self._status(state))

    def cut_off(self) -> None:
        """Make the process unreachable."""
        self.is_unreachable = True
        self._ran.set()

    def reconnect(self) -> None:
        """Make the process reachable again."""
        self.is_unreachable = False
        if self._outcome is None:
            self._ran.clear()

    async def ready(self) -> None:
        await self._call("ready", self.ready_after_s)

    async def node(self) -> str:
        await self._call("node")
        return self.on_node

    async def run(self) -> StreamStatus:
        await self._call("run")
        await self._ran.wait()
        if self.is_unreachable:
            raise WorkerUnreachable("cut off")
        assert self._outcome is not None
        if isinstance(self._outcome, WorkerError | ServeAppError):
            raise self._outcome
        return self._outcome

    async def status(self) -> StreamStatus:
        await self._call("status")
        if not self.answers_status:
            await asyncio.Event().wait()
        return self._status("running") if not isinstance(self._outcome, StreamStatus) else self._outcome

    async def events(self, after: int | None, within_s: float) -> EventPage:
        await self._call("events")
        return EventPage([Event(1, "result", self.record.spec.id, "{}")], 1, 0)

    async def snapshot(
        self, after: int | None, within_s: float, boxes: bool, max_side_px: int | None = None
    ) -> Snapshot | None:
        await self._call("snapshot")
        return Snapshot(1, self.picture)

    async def set_regions(self, regions: Regions) -> None:
        await self._call("set_regions")
        self.regions = regions

    async def stop(self) -> StreamStatus:
        await self._call("stop", self.stop_takes_s)
        return self._status("running")

    def kill(self) -> None:
        self.calls.append("kill")
        self.die()

    async def _call(self, method: str, takes_s: float = 0.0) -> None:
        self.calls.append(method)
        await asyncio.sleep(takes_s)
        if self.is_unreachable:
            raise WorkerUnreachable("cut off")
        if self.is_dead:
            raise WorkerDied("dead")
        if method in self.refusals:
            raise self.refusals[method]

    def _end(self, outcome: StreamStatus | WorkerError | ServeAppError) -> None:
        if not self.is_dead:
            self._outcome = outcome
            self._ran.set()

    def _status(self, state: State) -> StreamStatus:
        spec = self.record.spec
        return StreamStatus(
            stream_id=spec.id, state=state, source="rtsp://host/…", policy="drop_oldest", processed=7, camera_fps=25.0,
            latest=self.latest,
        )  # fmt: skip


class FakeWorkers:
    """All fake workers, by name. ``prepare`` is called with each new worker before its methods are called."""

    def __init__(self, prepare: Callable[[FakeWorker], None] = lambda worker: None) -> None:
        self.prepare = prepare
        self.alive: dict[str, FakeWorker] = {}
        self.started: list[FakeWorker] = []  # all workers ever started
        self.most_at_once = 0
        self.killed: list[str] = []  # names of killed workers, in order; may include names without a process
        self.immortal: set[str] = set()  # names of processes that cannot be killed
        self.draining: set[str] = set()
        self.node = "node-1"  # the node on which the next worker starts
        self.kill_takes_s = 0.01
        self.is_gone = False

    @property
    def last(self) -> FakeWorker:
        """The worker that was started last."""
        return self.started[-1]

    def start(self, record: Record, source: Source) -> FakeWorker:
        name = record.worker_name
        if name not in self.alive or self.alive[name].is_dead:
            self.alive[name] = FakeWorker(name, record, self.node)
            self.started.append(self.alive[name])
            self.prepare(self.alive[name])
            self.most_at_once = max(self.most_at_once, len(self.alive))
        return self.alive[name]

    async def kill(self, name: str) -> None:
        """Kill a worker. Like the real method, finish even if the caller is cancelled."""
        self.killed.append(name)
        if name in self.immortal:
            await asyncio.sleep(5)
            raise WorkerNotKilled("immortal")
        await asyncio.shield(asyncio.create_task(self._kill(name, self.kill_takes_s)))

    async def _kill(self, name: str, takes_s: float) -> None:
        await asyncio.sleep(takes_s)
        if worker := self.alive.pop(name, None):
            worker.die()

    async def running(self) -> set[str]:
        return set(self.alive)

    async def draining_nodes(self) -> set[str]:
        return set(self.draining)

    async def is_application_gone(self) -> bool:
        return self.is_gone


class FakeDetectors:
    """The fake Detectors of two models. The Detector of the model ``plates`` is unavailable."""

    def __init__(self, capacity_fps: float = 1000.0, replicas: int = 1) -> None:
        self.capacity, self.replicas = capacity_fps, replicas
        self.answer_after_s = 0.0

    def has_model(self, name: str) -> bool:
        return name in {"default", "plates"}

    async def model(self, name: str) -> ModelInfo:
        if name == "plates":
            raise Unavailable("no replica is ready")
        await asyncio.sleep(self.answer_after_s)
        return MODEL

    async def capacity_fps(self, name: str) -> float:
        return self.capacity

    async def max_replica_count(self, name: str) -> int:
        return self.replicas


Reports = list[tuple[StreamStatus, StreamStatus | None]]


@asynccontextmanager
async def supervising(
    folder: Path,
    workers: FakeWorkers | None = None,
    *,
    detectors: FakeDetectors | None = None,
    reports: Reports | None = None,
    on_deleted: Callable[[str], None] = lambda _: None,
    **args: Any,
) -> AsyncIterator[Supervision]:
    """Supervise the streams stored in a folder. A second call with the same folder acts like a restarted process."""

    def report(status: StreamStatus, previous: StreamStatus | None) -> None:
        if reports is not None:
            reports.append((status, previous))

    async with asyncio.timeout(TEST_TIMEOUT_S):
        backends = workers or FakeWorkers(), detectors or FakeDetectors()
        supervision = Supervision(
            StreamStore(folder), *backends, StreamArgs(**args), AddressGuard(), report, on_deleted=on_deleted
        )
        try:
            yield supervision
        finally:
            await supervision.stop()
            await supervision.close()

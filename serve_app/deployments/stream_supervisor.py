"""The StreamSupervisor: sees to it that the streams that there are to be are running. A Serve deployment."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayError
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from serve_app.config import AppArgs
from serve_app.deployments import stream_worker as worker
from serve_app.deployments.handles import Replicas, detector_name, listen, serves
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.deployments.stubs import DetectorStub, SupervisorStub
from serve_app.errors import Conflict, InvalidParameter, NotFound, ServeAppError, Unavailable
from serve_app.schemas.streams import Regions, State, StreamSpec, StreamStatus
from serve_app.streams.admission import Load, admit, check_room
from serve_app.streams.capture.source import Source, parse_source
from serve_app.streams.store import Record, StreamStore
from serve_app.streams.stream import check_outputs, policy_of
from serve_app.telemetry.metrics import Telemetry
from serve_app.types import EventPage, Snapshot

logger = logging.getLogger(__name__)

_HOLD_PERIOD_S = 0.5
_LOOK_PERIOD_S = 5.0  # at each worker's status
_ANSWER_TIMEOUT_S = 2.0  # of a worker
_STOP_TIMEOUT_S = 20.0
_DRAIN_LOOK_PERIOD_S = 2.0  # a node that is about to end may have 30 s
_READY_TIMEOUT_S = 40.0  # of a worker that takes over: on two busy cores it took 20
_MOVES_AT_ONCE = 4  # each starts a process, which takes seconds of a core
_RESTART_PAUSE_S = (0.1, 30.0)  # first and longest, while its process ends again and again
_UNREACHABLE_PAUSE_S = 1.0
_SOUND_AFTER_S = 30.0  # of running, a worker's death is not one of a row
_SILENT_S = 60.0  # of a process that has answered before
_NO_WORKER_PAUSE_S = 1.0
_LINGER_S = 10.0  # of a process whose stream is over
_HELD_WITHIN_S = 15.0  # of its start, a supervisor has the streams
_MAX_CALLS = 1024
_AT_REST = {"detail": "", "camera_fps": 0.0, "processed_fps": 0.0, "dropped_fps": 0.0}

P = ParamSpec("P")
T = TypeVar("T")


_changes: set[asyncio.Future[Any]] = set()


def _uninterrupted(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Awaitable[T]]:
    """The change is made to its end, also when whoever asked for it has gone: half of it would leave a stray."""

    @functools.wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        change = asyncio.ensure_future(method(*args, **kwargs))
        _changes.add(change)
        change.add_done_callback(_changes.discard)
        return await asyncio.shield(change)

    return wrapper


@dataclass(eq=False)
class _Stream:
    """A stream that there is to be, and what is known of it."""

    record: Record
    source: Source | None  # None: it is not allowed any more
    status: StreamStatus  # as last heard of
    heard_s: float | None = None  # when its process last answered
    worker: ActorHandle | None = None
    told: State | None = None  # to the metrics
    keeping: asyncio.Task[None] | None = None  # while it is to run, and a little longer
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one change at a time

    @property
    def is_to_run(self) -> bool:
        """It is not paused, not over, and allowed."""
        return self.source is not None and not self.record.spec.paused and self.record.ended is None


@serves(SupervisorStub)
class StreamSupervisor:
    """Starts a worker for each stream of the store, and another one when it dies.

    Workers outlive it: the next supervisor reads the store and joins them. One process at a time holds the store.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, detectors: dict[str, DeploymentHandle], args: AppArgs
    ) -> None:
        """``detectors``: of each model, by its name."""
        self._application = serve.get_replica_context().app_name
        self._args = args.streams
        self._guard = args.outbound.guard()
        self._store = await asyncio.to_thread(StreamStore, self._args.state_folder(self._application))
        self._detectors = {name: Replicas(detector) for name, detector in detectors.items()}
        self._telemetry = Telemetry(RayInstrument)
        self._streams: dict[str, _Stream] = {}
        self._held = asyncio.Event()
        self._admitting = asyncio.Lock()  # one stream after the other: each counts for the next
        self._moving = asyncio.Semaphore(_MOVES_AT_ONCE)
        self._tasks = [asyncio.create_task(self._take_over())]
        self._server = await listen(self, SupervisorStub, max_calls=_MAX_CALLS, limit="supervisor_calls")

    @_uninterrupted
    async def create(self, spec: StreamSpec) -> StreamStatus:
        """See ``api.pipeline.Streams``, as for all that follow."""
        await self._until_held()
        async with self._admitting:
            if spec.id in self._streams:
                raise Conflict(f"there is a stream {spec.id!r} already")
            check_room(len(self._streams), self._args.max_streams)
            stream = await self._checked(spec)
            await self._install(stream)
        return self._show(stream)

    @_uninterrupted
    async def replace(self, spec: StreamSpec) -> StreamStatus:
        async with self._changing(spec.id) as before, self._admitting:
            stream = await self._checked(spec)
            await self._halt(before)
            await asyncio.to_thread(self._store.start_over, spec.id)
            await self._install(stream)
        return self._show(stream)

    async def all(self) -> list[StreamStatus]:
        await self._until_held()
        streams = [self._streams[stream_id] for stream_id in sorted(self._streams)]
        await asyncio.gather(*(self._ask(stream) for stream in streams))
        return [self._show(stream) for stream in streams]

    async def status(self, stream_id: str) -> StreamStatus:
        stream = await self._find(stream_id)
        await self._ask(stream)
        return self._show(stream)

    @_uninterrupted
    async def delete(self, stream_id: str) -> None:
        async with self._changing(stream_id) as stream:
            await self._halt(stream)
            await asyncio.to_thread(self._store.delete, stream_id)
            del self._streams[stream_id]

    @_uninterrupted
    async def pause(self, stream_id: str) -> StreamStatus:
        async with self._changing(stream_id) as stream:
            if stream.is_to_run:
                await self._put(stream, spec=stream.record.spec.model_copy(update={"paused": True}))
                await self._halt(stream)
        return self._show(stream)

    @_uninterrupted
    async def resume(self, stream_id: str) -> StreamStatus:
        async with self._changing(stream_id) as stream, self._admitting:
            if not stream.is_to_run and stream.status.state != "completed":
                spec = stream.record.spec.model_copy(update={"paused": False})
                stream.source = self._source(spec)
                await self._check(stream)
                await self._halt(stream)
                await self._put(stream, spec=spec, ended=None)
                stream.status = stream.status.model_copy(update=_AT_REST | {"state": "starting"})
                self._begin(stream)
        return self._show(stream)

    async def regions(self, stream_id: str) -> Regions:
        spec = (await self._find(stream_id)).record.spec
        return Regions(zones=spec.zones, lines=spec.lines)

    @_uninterrupted
    async def set_regions(self, stream_id: str, regions: Regions) -> StreamStatus:
        async with self._changing(stream_id) as stream:
            spec = stream.record.spec.model_copy(update=dict(regions))
            _check_tracking(spec)
            await self._put(stream, spec=spec)
            if stream.worker is not None:
                try:
                    await asyncio.wait_for(stream.worker.set_regions.remote(regions), _STOP_TIMEOUT_S)
                except (RayError, TimeoutError) as exc:
                    raise Unavailable("the stream's process did not answer; the next one counts these") from exc
            await self._ask(stream)
        return self._show(stream)

    async def events(self, stream_id: str, after: int | None, within_s: float) -> EventPage:
        stream = await self._find(stream_id)
        if stream.worker is not None:
            try:
                page: EventPage = await stream.worker.events.remote(after, within_s)
                return page
            except RayError:
                pass  # another worker's events come next
        await asyncio.sleep(min(within_s, _NO_WORKER_PAUSE_S))
        return EventPage([], after, 0)

    async def snapshot(self, stream_id: str, after: int | None, within_s: float, boxes: bool) -> Snapshot | None:
        stream = await self._find(stream_id)
        if stream.worker is not None:
            try:
                shot: Snapshot | None = await stream.worker.snapshot.remote(after, within_s, boxes)
                return shot
            except RayError:
                pass
        await asyncio.sleep(min(within_s, _NO_WORKER_PAUSE_S))
        return None

    async def check_health(self) -> None:
        """Serve starts a replica anew whose own tasks have failed."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def __del__(self) -> None:
        for task in (*self._tasks, *(stream.keeping for stream in self._streams.values() if stream.keeping)):
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)  # a move that was not made yet is undone
            if self._held.is_set() and await asyncio.to_thread(worker.is_gone, self._application):
                await asyncio.gather(*(self._halt(stream) for stream in self._streams.values()))
            await self._server.close()
            if _changes:
                await asyncio.wait(_changes)
        finally:
            self._store.let_go()

    async def _take_over(self) -> None:
        while not self._store.hold():  # noqa: ASYNC110  # of another process: nothing of ours happens then
            await asyncio.sleep(_HOLD_PERIOD_S)
        for record in await asyncio.to_thread(self._store.records):
            stream = self._streams[record.spec.id] = self._make(record)
            mark = await asyncio.to_thread(self._store.mark, record.spec.id)
            if mark is not None and record.ended is None:
                stream.status = stream.status.model_copy(update=mark.counters())
        for stream in self._streams.values():
            if stream.is_to_run:
                self._begin(stream)
        kept = {self._actor_name(stream) for stream in self._streams.values() if stream.is_to_run}
        for name in await asyncio.to_thread(worker.running, self._application) - kept:
            # Of a supervisor that died while it deleted, paused or moved the stream, or whose settings allowed the
            # source.
            await asyncio.to_thread(worker.kill, name)
        self._held.set()
        self._tasks += [asyncio.create_task(self._look()), asyncio.create_task(self._leave_draining_nodes())]

    async def _look(self) -> None:
        """After the workers, which so learn that they are looked after, and tell what is measured."""
        while True:
            await asyncio.sleep(_LOOK_PERIOD_S)
            await asyncio.gather(*(self._ask(stream) for stream in self._streams.values()))
            for stream in self._streams.values():
                status = self._show(stream)
                self._telemetry.stream(status, stream.told)
                stream.told = status.state
                silent_s = time.monotonic() - (stream.heard_s or time.monotonic())
                if stream.worker is not None and silent_s > _SILENT_S:
                    logger.error("stream %s: its process does not answer, and is ended", stream.record.spec.id)
                    ray.kill(stream.worker)  # whoever keeps the stream notices

    async def _leave_draining_nodes(self) -> None:
        while True:
            await asyncio.sleep(_DRAIN_LOOK_PERIOD_S)
            if draining := await asyncio.to_thread(worker.draining_nodes):
                await asyncio.gather(*(self._leave(draining, stream) for stream in self._streams.values()))

    async def _leave(self, draining: set[str], stream: _Stream) -> None:
        """Moves the stream, if it runs on one of these."""
        if stream.worker is None:
            return
        try:
            node = await asyncio.wait_for(stream.worker.node.remote(), _ANSWER_TIMEOUT_S)
            if node in draining:
                async with self._moving:
                    await self._move(stream.record.spec.id)
        except (RayError, TimeoutError, NotFound):
            pass  # it is looked at again

    async def _move(self, stream_id: str) -> None:
        """Another worker goes on with the stream, on a node that stays; it is ready before this one stops."""
        stream = await self._find(stream_id)
        record = stream.record
        if stream.source is None or not stream.is_to_run:
            return
        moved = record.model_copy(update={"moves": record.moves + 1})
        successor = worker.start(moved, stream.source, self._application, self._args, self._guard)
        try:
            await asyncio.wait_for(successor.ready.remote(), _READY_TIMEOUT_S)  # the stream may be changed meanwhile
        except BaseException:  # also when we end
            await asyncio.to_thread(worker.kill, worker.actor_name(self._application, moved))
            logger.warning("stream %s cannot leave its node, which is about to end, yet", stream_id)
            raise
        await self._hand_over(record, moved)

    @_uninterrupted
    async def _hand_over(self, record: Record, moved: Record) -> None:
        """To the worker that is ready, unless the stream was changed meanwhile."""
        try:
            async with self._changing(record.spec.id) as stream:
                if stream.record is record and stream.keeping is not None:
                    await self._halt(stream)
                    await self._note(stream, moves=moved.moves)
                    self._begin(stream)
                    return
        except NotFound:
            pass
        await asyncio.to_thread(worker.kill, worker.actor_name(self._application, moved))

    async def _checked(self, spec: StreamSpec) -> _Stream:
        """A stream that may be. Raises what keeps it from that."""
        stream = self._make(Record(spec=spec))
        stream.source = self._source(spec)  # says what is wrong
        await self._check(stream)
        return stream

    async def _install(self, stream: _Stream) -> None:
        await asyncio.to_thread(self._store.put, stream.record)
        self._streams[stream.record.spec.id] = stream
        if stream.is_to_run:
            self._begin(stream)

    def _source(self, spec: StreamSpec) -> Source:
        """Raises SourceError."""
        return parse_source(spec.source.uri, self._args.folders(), tls_verify=spec.source.tls_verify)

    def _detector(self, spec: StreamSpec) -> Replicas:
        """Raises InvalidParameter."""
        if spec.detect.model not in self._detectors:
            raise InvalidParameter(f"detect.model: there is no {spec.detect.model!r}: see GET /models")
        return self._detectors[spec.detect.model]

    def _make(self, record: Record) -> _Stream:
        spec = record.spec
        source, detail = None, ""
        try:
            self._detector(spec)
            source = self._source(spec)
        except ServeAppError as exc:
            detail = exc.detail
        policy = policy_of(spec, source) if source else spec.policy or "wait"
        status = StreamStatus(
            stream_id=spec.id,
            state="starting" if source else "failed",
            detail=detail,
            source=source.name if source else "",
            policy=policy,
            tags=spec.tags,
        )
        return _Stream(record, source, record.ended or status)

    def _begin(self, stream: _Stream) -> None:
        if stream.source is not None:
            stream.keeping = asyncio.create_task(self._keep(stream, stream.source))

    async def _keep(self, stream: _Stream, source: Source) -> None:
        """Has a worker run, and another one when it dies, until the stream is over."""
        deaths = 0  # in a row
        while True:
            began_s, stream.heard_s = time.monotonic(), None
            try:
                before = stream.worker
                stream.worker = worker.start(stream.record, source, self._application, self._args, self._guard)
                if before is not None and before != stream.worker:  # it could not be reached, since it was dead
                    await self._count_restart(stream)
                status: StreamStatus = await stream.worker.run.remote()
                break
            except ActorUnavailableError:  # its node may have died, which Ray says after some 15 s; or it comes back
                detail = "its process cannot be reached"
                stream.status = stream.status.model_copy(update={"state": "starting", "detail": detail})
                await asyncio.sleep(_UNREACHABLE_PAUSE_S)
                continue
            except Exception as exc:  # it died, or it has failed: the next one may fare better
                logger.warning("stream %s: its process ended: %s", stream.record.spec.id, type(exc).__name__)
            stream.worker = None
            await asyncio.to_thread(worker.kill, self._actor_name(stream))
            deaths = 0 if time.monotonic() - began_s > _SOUND_AFTER_S else deaths + 1
            await self._count_restart(stream)
            detail = f"its process ended, and is started again: {stream.record.restarts} times so far"
            stream.status = stream.status.model_copy(update={"state": "starting", "detail": detail})
            await asyncio.sleep(min(_RESTART_PAUSE_S[1], _RESTART_PAUSE_S[0] * 2 ** min(deaths, 16)))
        stream.status = status
        async with stream.lock:  # deleted or paused meanwhile, it is halted, and this ends here
            await self._note(stream, ended=status)
        await asyncio.sleep(_LINGER_S)  # for who follows its events
        async with stream.lock:
            stream.worker = None
            await asyncio.to_thread(worker.kill, self._actor_name(stream))
            stream.keeping = None

    def _actor_name(self, stream: _Stream) -> str:
        return worker.actor_name(self._application, stream.record)

    async def _count_restart(self, stream: _Stream) -> None:
        async with stream.lock:
            await self._note(stream, restarts=stream.record.restarts + 1)

    async def _halt(self, stream: _Stream) -> None:
        """Its worker ends, having closed what it opened."""
        if stream.keeping is not None:
            stream.keeping.cancel()
            await asyncio.wait([stream.keeping])
            stream.keeping = None
        if stream.worker is not None:
            try:
                stream.status = await asyncio.wait_for(stream.worker.stop.remote(), _STOP_TIMEOUT_S)
            except (RayError, TimeoutError):
                pass  # it is ended all the same
            stream.worker = None  # not before: who follows its events has the last ones
        await asyncio.to_thread(worker.kill, self._actor_name(stream))

    async def _put(self, stream: _Stream, **changes: Any) -> None:
        """Changes its record, here and in the store. To be called under its lock. Raises OSError."""
        record = stream.record.model_copy(update=changes)
        await asyncio.to_thread(self._store.put, record)
        stream.record = record

    async def _note(self, stream: _Stream, **changes: Any) -> None:
        """As ``_put``, where nobody waits to hear that the disk is full."""
        try:
            await self._put(stream, **changes)
        except OSError as exc:
            logger.error("stream %s: the store cannot be written: %s", stream.record.spec.id, exc.strerror)
            stream.record = stream.record.model_copy(update=changes)

    async def _check(self, stream: _Stream) -> None:
        """Raises what keeps it from running, as far as that can be told before it does."""
        spec = stream.record.spec
        detector = self._detector(spec)
        check_outputs(spec, self._args.output_folder(), self._guard)
        _check_tracking(spec)
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                model = (await detector.call(DetectorStub.state)).model
                most = await asyncio.to_thread(self._most_detectors, spec.detect.model)
                capacity_fps = await detector.call(DetectorStub.capacity) * most
        except (TimeoutError, Unavailable):
            return  # nobody can tell yet
        spec.detect.to_params().to_options(model)
        streams = (other for other in self._streams.values() if other.is_to_run and other.record.spec.id != spec.id)
        others = (other for other in streams if other.record.spec.detect.model == spec.detect.model)
        admit(_load(stream), map(_load, others), capacity_fps)

    def _most_detectors(self, model: str) -> int:
        """As many as there are of a model, or as autoscaling may make of them."""
        details = _get_global_client().get_serve_details()
        detector = details["applications"][self._application]["deployments"][detector_name(model)]
        scaling = detector["deployment_config"].get("autoscaling_config") or {}
        return int(scaling.get("max_replicas") or detector["target_num_replicas"])

    async def _ask(self, stream: _Stream) -> None:
        """What the worker says of the stream, where it answers in time."""
        if stream.worker is None:
            return
        try:
            stream.status = await asyncio.wait_for(stream.worker.status.remote(), _ANSWER_TIMEOUT_S)
            stream.heard_s = time.monotonic()
        except (RayError, TimeoutError):  # whoever keeps the stream notices when it is dead
            if stream.heard_s is None and stream.status.state == "starting":
                detail = stream.status.detail or "its process has not started yet; it needs 0.02 of a core"
                stream.status = stream.status.model_copy(update={"detail": detail})

    def _show(self, stream: _Stream) -> StreamStatus:
        changes: dict[str, Any] = {"restarts": stream.record.restarts}
        if stream.record.spec.paused:
            changes |= _AT_REST | {"state": "paused"}
        return stream.status.model_copy(update=changes)

    async def _until_held(self) -> None:
        try:
            await asyncio.wait_for(self._held.wait(), _HELD_WITHIN_S)
        except TimeoutError as exc:
            raise Unavailable("another supervisor still has the streams") from exc

    async def _find(self, stream_id: str) -> _Stream:
        await self._until_held()
        if stream_id not in self._streams:
            raise NotFound(f"no stream {stream_id[:64]!r}")
        return self._streams[stream_id]

    @asynccontextmanager
    async def _changing(self, stream_id: str) -> AsyncIterator[_Stream]:
        """The stream, under its lock. Raises NotFound, also where it was deleted meanwhile."""
        stream = await self._find(stream_id)
        async with stream.lock:
            if await self._find(stream_id) is not stream:
                raise NotFound(f"no stream {stream_id[:64]!r}")
            yield stream


def _check_tracking(spec: StreamSpec) -> None:
    if spec.is_tracked and importlib.util.find_spec("trackers") is None:
        raise InvalidParameter("tracking is an extra: pip install 'sightline[tracking]'")


def _load(stream: _Stream) -> Load:
    return Load(stream.record.spec, stream.status.policy, stream.status.source_fps)

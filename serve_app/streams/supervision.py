"""The supervision, which creates, changes and watches all streams and keeps them running.

This module does not depend on Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from serve_app.config import StreamArgs
from serve_app.errors import Conflict, Forbidden, NotFound, ServeAppError, Unavailable
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.recording import FilePiece, RecordingList
from serve_app.schemas.streams import Regions, State, StreamSpec, StreamStatus
from serve_app.streams.admission import Admission, Detectors, StreamDemand, admit, check_stream_count, check_tracking
from serve_app.streams.handover import HandOver
from serve_app.streams.keepalive import KeepAlive
from serve_app.streams.outputs.recordings import Recordings
from serve_app.streams.registry import AT_REST, Registry, SupervisedStream, uninterrupted
from serve_app.streams.store import Record, StreamStore
from serve_app.streams.stream import policy_of
from serve_app.streams.workers import WorkerError, WorkerNotKilled, Workers, with_timeout
from serve_app.types import EventPage, Principal, Snapshot

_STORE_POLL_INTERVAL_S = 0.5
_POLL_INTERVAL_S = 5.0  # between two status requests to the same worker
_REGIONS_TIMEOUT_S = 20.0
_RECORDING_READERS = 2
_NO_WORKER_PAUSE_S = 1.0  # before an empty answer for a stream without a worker, so that clients do not busy-poll


class Supervision:
    """Keeps all registered streams running, and handles the clients' requests for streams.

    Workers keep running when the supervision ends. The next supervision reads the store and takes over the running
    workers. Only one process at a time can lock the store. The operations and their errors are documented in
    ``api.backend.Streams``.
    """

    def __init__(
        self,
        store: StreamStore,
        workers: Workers,
        detectors: Detectors,
        args: StreamArgs,
        guard: AddressGuard,
        report: Callable[[StreamStatus, StreamStatus | None], None],
        *,
        on_deleted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start supervising as soon as no other process holds the store's lock.

        Every few seconds, ``report`` is called with each stream's status and with the status that was last reported.
        This call updates the metrics. ``on_deleted`` is called with the id of each deleted stream.
        """
        self.registry = Registry(store)
        self._store = store
        self._workers = workers
        self._args = args
        self._report = report
        self._on_deleted = on_deleted
        self._admission = Admission(detectors, args, guard)
        self._keep_alive = KeepAlive(self.registry, workers)
        self._hand_over = HandOver(self.registry, workers, self._keep_alive)
        self._admitting = asyncio.Lock()  # held during an admission, because each admitted stream uses capacity
        # Their own threads, so that a slow disk with recordings leaves the other threads to the store.
        self._readers = ThreadPoolExecutor(_RECORDING_READERS, "recordings")
        self._tasks = [asyncio.create_task(self._take_over())]

    @uninterrupted
    async def create(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        """Add a stream that belongs to ``who``, and start it unless it is paused."""
        await self.registry.wait_until_open()
        async with self._admitting:
            if spec.id in self.registry.streams:
                raise Conflict(f"stream {spec.id!r} already exists")
            check_stream_count(len(self.registry.streams), self._args.max_streams)
            stream = await self._admitted(Record(spec=spec, owner=who.owner, created_at_s=time.time()))
            await self._install(stream)
        return stream.public_status()

    @uninterrupted
    async def replace(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        """Replace the stream with the id in ``spec``. The new stream has the same owner.

        If the new spec is refused, the old stream keeps running.
        """
        async with self.registry.changing(spec.id, who) as before, self._admitting:
            kept = before.record
            stream = await self._admitted(Record(spec=spec, owner=kept.owner, created_at_s=kept.created_at_s))
            async with self._halted(before):
                await asyncio.to_thread(self._store.start_over, spec.id)
                await self._install(stream)
        return stream.public_status()

    async def all(self, who: Principal) -> list[StreamStatus]:
        """Return the status of every stream that ``who`` may see, sorted by id."""
        streams = await self.registry.visible(who)
        await asyncio.gather(*(self._keep_alive.refresh_status(stream) for stream in streams))
        return [stream.public_status() for stream in streams]

    async def states(self, who: Principal) -> dict[str, State]:
        """Return the last known state of every stream that ``who`` may see, by id."""
        return {stream.record.spec.id: stream.public_status().state for stream in await self.registry.visible(who)}

    async def status(self, stream_id: str, who: Principal) -> StreamStatus:
        """Return the status of a stream."""
        stream = await self.registry.find(stream_id, who)
        await self._keep_alive.refresh_status(stream)
        return stream.public_status()

    @uninterrupted
    async def delete(self, stream_id: str, who: Principal) -> None:
        """End a stream, and delete its record and bookmark."""
        async with self.registry.changing(stream_id, who) as stream, self._halted(stream):
            await asyncio.to_thread(self._store.delete, stream_id)
            del self.registry.streams[stream_id]
            self._on_deleted(stream_id)

    @uninterrupted
    async def pause(self, stream_id: str, who: Principal) -> StreamStatus:
        """End a stream's worker, and start none until the stream is resumed."""
        async with self.registry.changing(stream_id, who) as stream:
            if stream.should_run:
                await self.registry.put(stream, spec=stream.record.spec.model_copy(update={"paused": True}))
                await self._halt(stream)
        return stream.public_status()

    @uninterrupted
    async def resume(self, stream_id: str, who: Principal) -> StreamStatus:
        """Start a stream that is paused or has failed."""
        async with self.registry.changing(stream_id, who) as stream, self._admitting:
            if not stream.should_run and stream.status.state != "completed":
                spec = stream.record.spec.model_copy(update={"paused": False})
                source = self._admission.source(spec)
                await self._admit(_demand(stream))
                await self._halt(stream)
                await self.registry.put(stream, spec=spec, ended=None)
                stream.source = source
                stream.status = stream.status.model_copy(update=AT_REST | {"state": "starting"})
                self._keep_alive.begin(stream)
        return stream.public_status()

    async def regions(self, stream_id: str, who: Principal) -> Regions:
        """Return the zones and lines that a stream counts."""
        spec = (await self.registry.find(stream_id, who)).record.spec
        return Regions(zones=spec.zones, lines=spec.lines)

    @uninterrupted
    async def set_regions(self, stream_id: str, who: Principal, regions: Regions) -> StreamStatus:
        """Change the zones and lines that a stream counts. If the worker refuses, keep the current regions."""
        async with self.registry.changing(stream_id, who) as stream:
            before = stream.record.spec
            spec = before.model_copy(update=dict(regions))
            check_tracking(spec)
            # We store the regions before the call. If the worker dies during the call, the next worker uses them.
            await self.registry.put(stream, spec=spec)
            if stream.worker is not None:
                try:
                    await with_timeout(stream.worker.set_regions(regions), _REGIONS_TIMEOUT_S)
                except WorkerError as exc:
                    raise Unavailable(
                        "the stream's process did not answer; the regions are saved and apply when it restarts"
                    ) from exc
                except ServeAppError:
                    await self.registry.put_or_log(stream, spec=before)
                    raise
            await self._keep_alive.refresh_status(stream)
        return stream.public_status()

    @uninterrupted
    async def set_owner(self, stream_id: str, who: Principal, owner: str) -> StreamStatus:
        """Give a stream without an owner an owner."""
        if not who.is_admin:
            raise Forbidden("owner: only an API key with the permission 'admin' can set it; use such a key")
        async with self.registry.changing(stream_id, who) as stream:
            if stream.record.owner not in {None, owner}:
                raise Conflict(
                    f"owner: stream {stream_id!r} belongs to {stream.record.owner!r}, and an owner cannot change; "
                    "delete the stream, and create it with a key of the new owner"
                )
            await self.registry.put(stream, owner=owner)
        return stream.public_status()

    async def events(self, stream_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        """Wait for events of a stream and return them. Return an empty page after ``within_s`` seconds."""
        stream = await self.registry.find(stream_id, who)
        if stream.worker is not None:
            try:
                return await stream.worker.events(after, within_s)
            except WorkerError:
                pass  # the client retries, and the next worker answers
        await asyncio.sleep(min(within_s, _NO_WORKER_PAUSE_S))
        return EventPage([], after, 0)

    async def snapshot(
        self,
        stream_id: str,
        who: Principal,
        after: int | None,
        within_s: float,
        boxes: bool,
        max_side_px: int | None = None,
    ) -> Snapshot | None:
        """Wait for a frame with an id above ``after``, and return it. Return None after ``within_s`` seconds."""
        stream = await self.registry.find(stream_id, who)
        if stream.worker is not None:
            try:
                return await stream.worker.snapshot(after, within_s, boxes, max_side_px)
            except WorkerError:
                pass
        await asyncio.sleep(min(within_s, _NO_WORKER_PAUSE_S))
        return None

    async def recordings(self, stream_id: str, who: Principal, before: str | None, limit: int) -> RecordingList:
        """Return a page of a stream's recordings."""
        recordings = await self._recordings(stream_id, who)
        if recordings is None:
            return RecordingList(recordings=[])
        return await asyncio.get_running_loop().run_in_executor(self._readers, recordings.page, before, limit)

    async def read_recording(self, stream_id: str, who: Principal, file_name: str, offset: int, size: int) -> FilePiece:
        """Return a piece of a clip or of a snapshot."""
        recordings = await self._recordings(stream_id, who)
        if recordings is None:
            raise NotFound("streams.output_dir is not set, so streams have no recordings")
        read = partial(recordings.read, file_name, offset, size)
        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    def check(self) -> None:
        """Raise the error of any background task that has failed."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """Stop supervising. End the workers only if the application was deleted."""
        for task in self._tasks:
            task.cancel()
        self._keep_alive.cancel_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # cancelling undoes unfinished moves of streams
        if self.registry.is_open and await self._workers.is_application_gone():
            await asyncio.gather(*(self._keep_alive.try_halt(stream) for stream in self.registry.streams.values()))
            self._keep_alive.cancel_all()  # workers that could not be killed exit by themselves

    async def close(self) -> None:
        """Wait for the changes in progress, and unlock the store for another process. Call ``stop`` first."""
        try:
            await self.registry.finish_changes()
            await self._keep_alive.end_all()  # also ends the tasks that these changes have started
            await self.registry.finish_changes()  # waits for the writes that these tasks had begun
        finally:
            self._readers.shutdown(wait=False, cancel_futures=True)
            self._store.release()

    async def _take_over(self) -> None:
        while not self._store.acquire():  # noqa: ASYNC110  # the process that has locked it cannot notify us
            await asyncio.sleep(_STORE_POLL_INTERVAL_S)
        streams = self.registry.streams
        for record in await asyncio.to_thread(self._store.records):
            stream = streams[record.spec.id] = self._stream(record)
            bookmark = await asyncio.to_thread(self._store.bookmark, record.spec.id)
            if bookmark is not None and record.ended is None:
                stream.status = stream.status.model_copy(update=bookmark.counters())
        for stream in streams.values():
            if stream.should_run:
                self._keep_alive.begin(stream)
        await self._end_strays()
        self.registry.open()
        self._tasks += [asyncio.create_task(self._poll()), asyncio.create_task(self._hand_over.run())]

    async def _end_strays(self) -> None:
        """End the workers that should not run.

        There are such workers if the previous supervisor died while it deleted, paused or moved a stream, or if its
        settings allowed a source that our settings do not allow.
        """
        streams = {stream.record.worker_name: stream for stream in self.registry.streams.values()}
        kept = {name for name, stream in streams.items() if stream.should_run}
        for name in sorted(await self._workers.running() - kept):
            if name in streams:
                await self._keep_alive.try_halt(streams[name])
            else:
                await self._keep_alive.discard(name)

    async def _poll(self) -> None:
        """Request each worker's status every few seconds.

        If a worker gets no requests, it checks whether its application was deleted. If so, the worker exits.
        """
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            streams = self.registry.streams.values()
            await asyncio.gather(*(self._keep_alive.refresh_status(stream) for stream in streams))
            for stream in self.registry.streams.values():
                status = stream.public_status()
                self._report(status, stream.reported)
                stream.reported = status
                self._keep_alive.kill_silent(stream)

    async def _admitted(self, record: Record) -> SupervisedStream:
        """Return a new stream. Raise an error if its spec is not valid or the capacity is used up."""
        stream = self._stream(record)
        # This raises SourceError if the source is not allowed. ``_stream`` only writes this error into the status.
        stream.source = self._admission.source(record.spec)
        await self._admit(_demand(stream))
        return stream

    async def _admit(self, new: StreamDemand) -> None:
        capacity = await self._admission.check(new.spec)
        if capacity is not None:
            admit(new, self._other_demands(new.spec), capacity)

    def _other_demands(self, spec: StreamSpec) -> Iterator[StreamDemand]:
        """Yield the demand of every other running stream that uses the same model."""
        for stream in self.registry.streams.values():
            other = stream.record.spec
            if stream.should_run and other.id != spec.id and other.detect.model == spec.detect.model:
                yield _demand(stream)

    async def _install(self, stream: SupervisedStream) -> None:
        await asyncio.to_thread(self._store.put, stream.record)
        self.registry.streams[stream.record.spec.id] = stream
        if stream.should_run:
            self._keep_alive.begin(stream)

    async def _halt(self, stream: SupervisedStream) -> None:
        try:
            await self._keep_alive.halt(stream)
        except WorkerNotKilled as exc:
            raise Unavailable("the stream's process could not be ended yet; retry") from exc

    @asynccontextmanager
    async def _halted(self, stream: SupervisedStream) -> AsyncIterator[None]:
        """Halt a stream while the ``with`` block runs. If the block raises OSError, restart the stream."""
        await self._halt(stream)
        try:
            yield
        except OSError:
            if stream.should_run:
                self._keep_alive.begin(stream)
            raise

    async def _recordings(self, stream_id: str, who: Principal) -> Recordings | None:
        record = (await self.registry.find(stream_id, who)).record
        folder = self._args.output_folder()
        return Recordings(folder / record.spec.id, record.created_at_s) if folder else None

    def _stream(self, record: Record) -> SupervisedStream:
        """Return a stream that is not running yet. If its model or source is not allowed, the status says so."""
        spec = record.spec
        source, detail = None, ""
        try:
            self._admission.check_model(spec)
            source = self._admission.source(spec)
        except ServeAppError as exc:
            detail = exc.detail
        status = StreamStatus(
            stream_id=spec.id,
            state="starting" if source else "failed",
            detail=detail,
            source=source.name if source else "",
            policy=policy_of(spec, source) if source else spec.policy or "wait",
            tags=spec.tags,
        )
        return SupervisedStream(record, source, record.ended or status)


def _demand(stream: SupervisedStream) -> StreamDemand:
    status = stream.status
    return StreamDemand(
        stream.record.spec, status.policy, status.source_fps, status.latest.input if status.latest else None
    )

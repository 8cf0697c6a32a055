"""The registered streams, in memory and in the store, with the locks that protect changes."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from serve_app.errors import NotFound, Unavailable
from serve_app.schemas.streams import StreamStatus
from serve_app.streams.store import Record, StreamStore
from serve_app.streams.workers import Worker
from serve_app.types import Principal
from serve_app.video.source import Source

logger = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 15.0  # a new supervisor needs less time than this to read its streams
_STUCK_DETAIL = "the stream's old process could not be ended, so no new one is started; retrying"
SUPERVISOR = Principal("", is_admin=True)  # for changes that no client requests
# The status of a stream without a worker.
AT_REST = {"detail": "", "camera_fps": 0.0, "processed_fps": 0.0, "dropped_fps": 0.0, "scene_health": None}

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False)
class SupervisedStream:
    """A registered stream with its status and worker."""

    record: Record
    source: Source | None  # None if the settings do not allow the source
    status: StreamStatus  # the last known status
    last_status_at_s: float | None = None  # when the worker last sent its status, on the event loop's clock
    worker: Worker | None = None
    reported: StreamStatus | None = None  # the status that the metrics show
    keeper: asyncio.Task[None] | None = None  # keeps the worker alive, and kills it 10 s after the stream's end
    is_stuck: bool = False  # whether the last attempt to kill the worker failed
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while the stream is changed

    @property
    def should_run(self) -> bool:
        """Whether the stream's source is allowed, and the stream is neither paused nor ended."""
        return self.source is not None and not self.record.spec.paused and self.record.ended is None

    def public_status(self) -> StreamStatus:
        """Return the last known status, with additions from the supervision.

        The additions are the owner, the number of restarts, the state of a paused stream, and a reason if the stream's
        old process cannot be ended.
        """
        changes: dict[str, Any] = {"owner": self.record.owner, "restarts": self.record.restarts}
        if self.record.spec.paused:
            changes |= AT_REST | {"state": "paused"}
        if self.is_stuck:
            changes |= {"detail": _STUCK_DETAIL} | ({"state": "starting"} if self.should_run else {})
        return self.status.model_copy(update=changes)


class Registry:
    """The supervised streams by their ids. The registry opens once this process has locked and read the store."""

    def __init__(self, store: StreamStore) -> None:
        self.streams: dict[str, SupervisedStream] = {}
        self._store = store
        self._is_open = asyncio.Event()
        self._changes: set[asyncio.Task[Any]] = set()  # the changes in progress

    @property
    def is_open(self) -> bool:
        """Whether the store has been read."""
        return self._is_open.is_set()

    def open(self) -> None:
        """Make the streams available to all operations."""
        self._is_open.set()

    async def wait_until_open(self) -> None:
        """Wait until the registry is open. Raise Unavailable after 15 s."""
        try:
            await asyncio.wait_for(self._is_open.wait(), _OPEN_TIMEOUT_S)
        except TimeoutError as exc:
            raise Unavailable("another supervisor still manages the streams; retry") from exc

    async def visible(self, who: Principal) -> list[SupervisedStream]:
        """Return the streams that ``who`` may see, sorted by id. Raise Unavailable as ``wait_until_open`` does."""
        await self.wait_until_open()
        streams = (self.streams[stream_id] for stream_id in sorted(self.streams))
        return [stream for stream in streams if who.may_see(stream.record.owner)]

    async def find(self, stream_id: str, who: Principal) -> SupervisedStream:
        """Return a stream. Raise NotFound if no stream has this id, or if ``who`` may not see it, with the same words.

        Raise Unavailable as ``wait_until_open`` does.
        """
        await self.wait_until_open()
        stream = self.streams.get(stream_id)
        if stream is None or not who.may_see(stream.record.owner):
            raise NotFound(f"stream {stream_id[:64]!r} does not exist")
        return stream

    @asynccontextmanager
    async def changing(self, stream_id: str, who: Principal) -> AsyncIterator[SupervisedStream]:
        """Hold the lock of a stream for the duration of the ``with`` block.

        If the stream is replaced while we wait for its lock, hold the lock of the new stream. Raise NotFound as
        ``find`` does, also if the stream is deleted or gets another owner meanwhile, and Unavailable as ``find`` does.
        """
        while True:
            stream = await self.find(stream_id, who)
            async with stream.lock:
                if await self.find(stream_id, who) is stream:
                    yield stream
                    return

    async def put(self, stream: SupervisedStream, **changes: Any) -> None:
        """Change a stream's record, first in the store and then in memory. The caller must hold the stream's lock.

        The write continues in its thread even if the caller is cancelled. ``finish_changes`` waits for it.
        Raise OSError if the store cannot be written.
        """
        record = stream.record.model_copy(update=changes)
        await self.complete(asyncio.to_thread(self._store.put, record))
        stream.record = record

    async def put_or_log(self, stream: SupervisedStream, **changes: Any) -> None:
        """Change a stream's record as ``put`` does, but log the error instead of raising it."""
        try:
            await self.put(stream, **changes)
        except OSError as exc:
            logger.error("stream %s: the store cannot be written: %s", stream.record.spec.id, exc.strerror)
            stream.record = stream.record.model_copy(update=changes)

    async def complete(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change and return its result. The change continues even if the caller is cancelled."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def finish_changes(self) -> None:
        """Wait for all changes in progress."""
        if self._changes:
            await asyncio.wait(self._changes)


class _HasRegistry(Protocol):
    @property
    def registry(self) -> Registry: ...


S = TypeVar("S", bound=_HasRegistry)


def uninterrupted(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Let a method run to its end even if its caller is cancelled.

    A change that stopped halfway would leave a worker that no stream owns. The decorated method raises Unavailable if
    the store cannot be written.
    """

    @functools.wraps(method)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self.registry.complete(method(self, *args, **kwargs))
        except OSError as exc:
            if exc.strerror is None:  # a TimeoutError, which is a subclass of OSError
                raise
            logger.error("the store of streams cannot be written: %s", exc.strerror)
            raise Unavailable(f"streams.state_dir cannot be written ({exc.strerror}); fix this and retry") from exc

    return wrapper

"""The streams that should exist, in memory and in the store, and the rules for changing them."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from serve_app.errors import NotFound, Unavailable
from serve_app.schemas.streams import State, StreamStatus
from serve_app.streams.capture.source import Source
from serve_app.streams.store import Record, StreamStore
from serve_app.streams.workers import Worker

logger = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 15.0  # a supervisor that has started has its streams within this time
_STUCK_DETAIL = "its last process could not be ended, so no other one is started; this is tried again"
AT_REST = {"detail": "", "camera_fps": 0.0, "processed_fps": 0.0, "dropped_fps": 0.0}  # of a stream without a worker

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False)
class SupervisedStream:
    """A stream that should exist, and what is known about it."""

    record: Record
    source: Source | None  # None: the settings do not allow it any more
    status: StreamStatus  # the last one that is known
    last_status_at_s: float | None = None  # when its worker last answered; the event loop's clock
    worker: Worker | None = None
    reported_state: State | None = None  # the state that the metrics were last given
    keeper: asyncio.Task[None] | None = None  # keeps its worker alive; ends some seconds after the stream
    is_stuck: bool = False  # its last worker could not be killed
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by whatever changes the stream

    @property
    def should_run(self) -> bool:
        """Whether the stream is allowed, and neither paused nor over."""
        return self.source is not None and not self.record.spec.paused and self.record.ended is None

    def public_status(self) -> StreamStatus:
        """Return the last status that is known, completed by what only the supervision knows."""
        changes: dict[str, Any] = {"restarts": self.record.restarts}
        if self.record.spec.paused:
            changes |= AT_REST | {"state": "paused"}
        if self.is_stuck:
            changes |= {"detail": _STUCK_DETAIL} | ({"state": "starting"} if self.should_run else {})
        return self.status.model_copy(update=changes)


class Registry:
    """The supervised streams by their ids. It is opened once the store is ours and has been read."""

    def __init__(self, store: StreamStore) -> None:
        self.streams: dict[str, SupervisedStream] = {}
        self._store = store
        self._is_open = asyncio.Event()
        self._changes: set[asyncio.Task[Any]] = set()  # in progress

    @property
    def is_open(self) -> bool:
        """Whether the store has been read."""
        return self._is_open.is_set()

    def open(self) -> None:
        """Let everybody find the streams."""
        self._is_open.set()

    async def until_open(self) -> None:
        """Wait until the streams can be found. Raises Unavailable after 15 s."""
        try:
            await asyncio.wait_for(self._is_open.wait(), _OPEN_TIMEOUT_S)
        except TimeoutError as exc:
            raise Unavailable("another supervisor still has the streams") from exc

    async def find(self, stream_id: str) -> SupervisedStream:
        """Return a stream. Raises NotFound, Unavailable."""
        await self.until_open()
        if stream_id not in self.streams:
            raise NotFound(f"no stream {stream_id[:64]!r}")
        return self.streams[stream_id]

    @asynccontextmanager
    async def changing(self, stream_id: str) -> AsyncIterator[SupervisedStream]:
        """Hold the lock of a stream. Where it is replaced meanwhile, hold the lock of the new one.

        Raises Unavailable, and NotFound also where the stream is deleted meanwhile.
        """
        while True:
            stream = await self.find(stream_id)
            async with stream.lock:
                if self.streams.get(stream_id) is stream:
                    yield stream
                    return

    async def put(self, stream: SupervisedStream, **changes: Any) -> None:
        """Change a stream's record, in the store first. To be called with its lock held. Raises OSError.

        ``finish_changes`` waits for the write also where the caller is cancelled, because its thread goes on.
        """
        record = stream.record.model_copy(update=changes)
        await self.complete(asyncio.to_thread(self._store.put, record))
        stream.record = record

    async def note(self, stream: SupervisedStream, **changes: Any) -> None:
        """Change a stream's record as ``put`` does, but only log when the store cannot be written."""
        try:
            await self.put(stream, **changes)
        except OSError as exc:
            logger.error("stream %s: the store cannot be written: %s", stream.record.spec.id, exc.strerror)
            stream.record = stream.record.model_copy(update=changes)

    async def complete(self, change: Coroutine[Any, Any, T]) -> T:
        """Return the result of a change, which runs to its end also when its caller is cancelled."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def finish_changes(self) -> None:
        """Wait for the changes that are in progress."""
        if self._changes:
            await asyncio.wait(self._changes)


class _HasRegistry(Protocol):
    @property
    def registry(self) -> Registry: ...


S = TypeVar("S", bound=_HasRegistry)


def uninterrupted(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Run a method to its end also when its caller is cancelled: half a change would leave a stray worker.

    Raises Unavailable where the store cannot be written.
    """

    @functools.wraps(method)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self.registry.complete(method(self, *args, **kwargs))
        except OSError as exc:
            if exc.strerror is None:  # a TimeoutError, which is an OSError, too
                raise
            logger.error("the store of streams cannot be written: %s", exc.strerror)
            raise Unavailable(f"streams.state_dir cannot be written ({exc.strerror}): try again once it can") from exc

    return wrapper

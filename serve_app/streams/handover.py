"""Moving streams off nodes that will be taken away soon."""

from __future__ import annotations

import asyncio
import logging

from serve_app.errors import NotFound, ServeAppError
from serve_app.streams.keepalive import KeepAlive
from serve_app.streams.registry import Registry, SupervisedStream, uninterrupted
from serve_app.streams.store import Record
from serve_app.streams.workers import WorkerError, WorkerNotKilled, Workers, in_time, reason_of

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 2.0  # short, because a draining node may have only 30 s left
_NODE_TIMEOUT_S = 2.0
_READY_TIMEOUT_S = 40.0  # on two busy cores, a worker took 20 s to be ready
_MOVES_AT_ONCE = 4  # each move starts a process, which takes seconds of a core


class HandOver:
    """Starts a second worker elsewhere for each stream on a draining node, and hands the stream over once it is ready.

    Until then the first worker goes on, so that no frame is lost while the second one starts.
    """

    def __init__(self, registry: Registry, workers: Workers, keep_alive: KeepAlive) -> None:
        self.registry = registry
        self._workers = workers
        self._keep_alive = keep_alive
        self._moving = asyncio.Semaphore(_MOVES_AT_ONCE)

    async def run(self) -> None:
        """Watch for draining nodes, and move their streams, until cancelled. A move that is not made yet is undone."""
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            if draining := await self._workers.draining_nodes():
                await asyncio.gather(*(self._leave(draining, stream) for stream in self.registry.streams.values()))

    async def _leave(self, draining: set[str], stream: SupervisedStream) -> None:
        if stream.worker is None:
            return
        try:
            node = await in_time(stream.worker.node(), _NODE_TIMEOUT_S)
            if node in draining:
                async with self._moving:
                    await self._move(stream.record.spec.id)
        except (WorkerError, ServeAppError):  # among them NotFound: the stream was deleted meanwhile
            pass  # the next poll sees the stream again, if it is still on that node

    async def _move(self, stream_id: str) -> None:
        stream = await self.registry.find(stream_id)
        record = stream.record
        if stream.source is None or not stream.should_run:
            return
        moved = record.model_copy(update={"moves": record.moves + 1})
        try:
            successor = self._workers.start(moved, stream.source)  # under a name of its own, on a node that stays
            await in_time(successor.ready(), _READY_TIMEOUT_S)  # without the lock: the stream may be changed meanwhile
        except BaseException as exc:  # also when the supervisor ends
            await self._keep_alive.discard(moved.worker_name)
            logger.warning(
                "stream %s could not be moved off its draining node; will retry: %s", stream_id, reason_of(exc)
            )
            raise
        await self._hand_over(record, moved)

    @uninterrupted
    async def _hand_over(self, record: Record, moved: Record) -> None:
        """Let the worker of ``moved``, which is ready, take over, unless the stream was changed meanwhile."""
        try:
            async with self.registry.changing(record.spec.id) as stream:
                if stream.record is record and stream.keeper is not None:
                    await self._keep_alive.halt(stream)
                    await self.registry.note(stream, moves=moved.moves)
                    self._keep_alive.begin(stream)
                    return
        except (NotFound, WorkerNotKilled):
            pass
        await self._keep_alive.discard(moved.worker_name)

"""Moving streams off draining nodes."""

from __future__ import annotations

import asyncio
import logging

from serve_app.errors import NotFound, ServeAppError
from serve_app.streams.keepalive import KeepAlive
from serve_app.streams.registry import SUPERVISOR, Registry, SupervisedStream, uninterrupted
from serve_app.streams.store import Record
from serve_app.streams.workers import WorkerError, WorkerNotKilled, Workers, reason_of, with_timeout

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 2.0  # short, because a draining node may have only 30 s left
_NODE_TIMEOUT_S = 2.0
_READY_TIMEOUT_S = 40.0  # on two busy cores, a worker needed 20 s to become ready
_MOVES_AT_ONCE = 4  # each move starts a process, which takes several seconds of CPU time


class HandOver:
    """Moves each stream on a draining node to a new worker on another node.

    The old worker keeps running until the new one is ready, so that no frame is lost while the new worker starts.
    """

    def __init__(self, registry: Registry, workers: Workers, keep_alive: KeepAlive) -> None:
        self.registry = registry
        self._workers = workers
        self._keep_alive = keep_alive
        self._moving = asyncio.Semaphore(_MOVES_AT_ONCE)

    async def run(self) -> None:
        """Move the streams off draining nodes, until this task is cancelled. Cancelling undoes unfinished moves."""
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            if draining := await self._workers.draining_nodes():
                await asyncio.gather(
                    *(self._move_if_draining(draining, stream) for stream in self.registry.streams.values())
                )

    async def _move_if_draining(self, draining: set[str], stream: SupervisedStream) -> None:
        if stream.worker is None:
            return
        try:
            node = await with_timeout(stream.worker.node(), _NODE_TIMEOUT_S)
            if node in draining:
                async with self._moving:
                    await self._move(stream.record.spec.id)
        except (WorkerError, ServeAppError):  # including NotFound, if the stream was deleted meanwhile
            pass  # the next poll retries if the stream is still on that node

    async def _move(self, stream_id: str) -> None:
        stream = await self.registry.find(stream_id, SUPERVISOR)
        record = stream.record
        if stream.source is None or not stream.should_run:
            return
        moved = record.model_copy(update={"moves": record.moves + 1})
        try:
            successor = self._workers.start(moved, stream.source)  # runs on a node that is not draining
            # We do not hold the stream's lock here, so that clients can change the stream while the successor starts.
            await with_timeout(successor.ready(), _READY_TIMEOUT_S)
        except BaseException as exc:  # including the cancellation when the supervisor stops
            await self._keep_alive.discard(moved.worker_name)
            logger.warning(
                "stream %s could not be moved off its draining node; will retry: %s", stream_id, reason_of(exc)
            )
            raise
        await self._hand_over(record, moved)

    @uninterrupted
    async def _hand_over(self, record: Record, moved: Record) -> None:
        """Replace the stream's worker by the ready worker of ``moved``.

        If the stream was changed meanwhile, discard the ready worker instead.
        """
        try:
            async with self.registry.changing(record.spec.id, SUPERVISOR) as stream:
                if stream.record is record and stream.keeper is not None:
                    await self._keep_alive.halt(stream)
                    await self.registry.put_or_log(stream, moves=moved.moves)
                    self._keep_alive.begin(stream)
                    return
        except (NotFound, WorkerNotKilled):
            pass
        await self._keep_alive.discard(moved.worker_name)

"""Starts, restarts and ends the workers of streams."""

from __future__ import annotations

import asyncio
import logging

from serve_app.errors import ServeAppError
from serve_app.schemas.streams import StreamStatus
from serve_app.streams.registry import Registry, SupervisedStream
from serve_app.streams.workers import WorkerError, WorkerNotKilled, Workers, WorkerUnreachable, reason_of, with_timeout
from serve_app.video.source import Source

logger = logging.getLogger(__name__)

_STATUS_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 20.0
# If a worker dies after more than 30 s, the next worker starts after 0.1 s. Each death within 30 s doubles this pause.
# It is 0.2 s after the first such death in a row, 0.4 s after the second, and so on.
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 30.0
_STABLE_AFTER_S = 30.0  # if a worker has run longer than this, the pause is 0.1 s again
_UNREACHABLE_PAUSE_S = 1.0
_KILL_RETRY_PAUSE_S = 1.0
_SILENT_TIMEOUT_S = 60.0  # a worker is killed after this time without an answer
_END_TIMEOUT_S = 5.0  # enough, because a cancelled keeper ends at once unless it has a bug
_LINGER_S = 10.0  # how long a worker still serves events after its stream has ended


class KeepAlive:
    """Keeps one worker running for each stream that should run. Replaces dead workers, with back-off."""

    def __init__(self, registry: Registry, workers: Workers) -> None:
        self._registry = registry
        self._workers = workers

    def begin(self, stream: SupervisedStream) -> None:
        """Start a task that keeps a worker alive for this stream. If a worker is running already, reuse it."""
        stream.keeper = asyncio.create_task(self._keep_despite_bugs(stream))

    async def halt(self, stream: SupervisedStream) -> None:
        """Stop a stream's worker, and end its process.

        The caller must hold the stream's lock. Raise WorkerNotKilled if the process does not end. A background task
        then retries the kill until the process has ended, and starts a new worker if the stream should run.
        """
        if stream.keeper is not None:
            stream.keeper.cancel()
            await asyncio.wait([stream.keeper])
            stream.keeper = None
        if stream.worker is not None:
            try:
                stream.status = await with_timeout(stream.worker.stop(), _STOP_TIMEOUT_S)
            except (WorkerError, ServeAppError):
                pass  # ignored, because we kill the process next
            stream.worker = None  # not earlier, because the worker serves events until it stops
        try:
            await self._kill(stream)
        except WorkerNotKilled:
            self.begin(stream)
            raise

    async def try_halt(self, stream: SupervisedStream) -> None:
        """Halt a stream as ``halt`` does, but do not raise WorkerNotKilled."""
        try:
            await self.halt(stream)
        except WorkerNotKilled:
            pass

    def cancel_all(self) -> None:
        """Cancel the tasks that keep workers alive. The workers themselves keep running."""
        for stream in self._registry.streams.values():
            if stream.keeper is not None:
                stream.keeper.cancel()

    async def end_all(self) -> None:
        """Cancel the tasks that keep workers alive, and wait up to 5 s until they have ended."""
        self.cancel_all()
        keepers = [stream.keeper for stream in self._registry.streams.values() if stream.keeper is not None]
        if keepers:
            await asyncio.wait(keepers, timeout=_END_TIMEOUT_S)

    async def refresh_status(self, stream: SupervisedStream) -> None:
        """Request the status from a stream's worker, and store it if the worker answers within 2 s."""
        if stream.worker is None:
            return
        try:
            stream.status = await with_timeout(stream.worker.status(), _STATUS_TIMEOUT_S)
            stream.last_status_at_s = _now_s()
        except WorkerError:  # a dead worker is restarted by its keeper
            if stream.last_status_at_s is None and stream.status.state == "starting":
                detail = stream.status.detail or "the stream's process has not started yet; it needs 0.02 CPU cores"
                stream.status = stream.status.model_copy(update={"detail": detail})

    def kill_silent(self, stream: SupervisedStream) -> None:
        """Kill a stream's worker if it has not answered for 60 s. The stream's keeper then starts a new worker."""
        if stream.worker is None or stream.last_status_at_s is None:
            return
        if _now_s() - stream.last_status_at_s > _SILENT_TIMEOUT_S:
            logger.error("stream %s: its process does not answer; killing it", stream.record.spec.id)
            stream.worker.kill()

    async def discard(self, name: str) -> None:
        """Kill a worker that no stream needs. If the process does not end, log the error instead of raising it."""
        try:
            await self._workers.kill(name)
        except WorkerNotKilled:
            logger.error("the unused process %s could not be ended; the next supervisor will retry", name)

    async def _keep_despite_bugs(self, stream: SupervisedStream) -> None:
        while True:
            try:
                return await self._keep(stream)
            except Exception:
                pause = f"retrying in {_MAX_BACKOFF_S:g} s"
                logger.exception("stream %s: unexpected error in its supervision; %s", stream.record.spec.id, pause)
            if stream.should_run:
                _mark_starting(stream, "unexpected error in the supervisor; see its log; retrying")
            await asyncio.sleep(_MAX_BACKOFF_S)

    async def _keep(self, stream: SupervisedStream) -> None:
        if stream.is_stuck or not stream.should_run:  # after an unexpected error, the old process may still be running
            stream.worker = None
            await self._kill_until_gone(stream)
        if stream.source is not None and stream.should_run:
            stream.status = await self._run(stream, stream.source)
            async with stream.lock:  # ``pause`` and ``delete`` hold this lock, and cancel this task
                await self._registry.put_or_log(stream, ended=stream.status)
            await asyncio.sleep(_LINGER_S)
            stream.worker = None
            await self._kill_until_gone(stream)
        stream.keeper = None

    async def _run(self, stream: SupervisedStream, source: Source) -> StreamStatus:
        """Run the stream until it has ended, and replace workers that die. Return the stream's last status."""
        deaths = 0  # how many workers in a row died early
        while True:
            started_at_s, stream.last_status_at_s = _now_s(), None
            try:
                before = stream.worker
                stream.worker = worker = self._workers.start(stream.record, source)
                if before is not None and before != worker:  # the unreachable worker had died
                    await self._count_restart(stream)
                return await worker.run()
            except WorkerUnreachable:  # the worker may come back; if its node died, Ray reports this after about 15 s
                _mark_starting(stream, "the stream's process cannot be reached; retrying")
                await asyncio.sleep(_UNREACHABLE_PAUSE_S)
                continue
            except Exception as exc:  # any error, because the next worker may succeed
                reason = reason_of(exc)
                logger.warning("stream %s: its process ended: %s", stream.record.spec.id, reason)
            deaths = 0 if _now_s() - started_at_s > _STABLE_AFTER_S else deaths + 1
            stream.worker = None
            await self._kill_until_gone(stream)  # a worker that raised an error may still be running
            await self._count_restart(stream)
            _mark_starting(
                stream,
                f"the stream's process ended ({reason}); restarting it; restarts so far: {stream.record.restarts}",
            )
            await asyncio.sleep(min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(deaths, 16)))

    async def _count_restart(self, stream: SupervisedStream) -> None:
        async with stream.lock:
            await self._registry.put_or_log(stream, restarts=stream.record.restarts + 1)

    async def _kill(self, stream: SupervisedStream) -> None:
        """Kill the process of the stream's worker, if it exists. Raise WorkerNotKilled if it does not end."""
        try:
            await self._workers.kill(stream.record.worker_name)
        except WorkerNotKilled:
            if not stream.is_stuck:
                logger.error("stream %s: its process could not be ended; retrying", stream.record.spec.id)
            stream.is_stuck = True
            raise
        stream.is_stuck = False

    async def _kill_until_gone(self, stream: SupervisedStream) -> None:
        """Kill the process of the stream's worker, and retry until it has ended.

        Hold the stream's lock during each attempt. Otherwise a concurrent change of the stream could start a new
        worker, and our attempt would then kill the new worker.
        """
        while True:
            async with stream.lock:
                try:
                    return await self._kill(stream)
                except WorkerNotKilled:
                    pass
            await asyncio.sleep(_KILL_RETRY_PAUSE_S)


def _mark_starting(stream: SupervisedStream, detail: str) -> None:
    stream.status = stream.status.model_copy(update={"state": "starting", "detail": detail})


def _now_s() -> float:
    return asyncio.get_running_loop().time()

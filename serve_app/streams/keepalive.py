"""Keeping one stream's worker alive: it is started, watched, started again when it dies, and ended."""

from __future__ import annotations

import asyncio
import logging

from serve_app.errors import ServeAppError
from serve_app.schemas.streams import StreamStatus
from serve_app.streams.capture.source import Source
from serve_app.streams.registry import Registry, SupervisedStream
from serve_app.streams.workers import WorkerError, WorkerNotKilled, Workers, WorkerUnreachable, in_time, reason_of

logger = logging.getLogger(__name__)

_STATUS_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 20.0
# A worker that dies after a sound run is started again after the first pause. Each early death in a row doubles the
# pause: 0.2 s after the first early death, 0.4 s after the second one, and so on.
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 30.0
_SOUND_AFTER_S = 30.0  # a run that is longer than this is sound: the next pause is the first one again
_UNREACHABLE_PAUSE_S = 1.0
_KILL_RETRY_PAUSE_S = 1.0
_SILENT_TIMEOUT_S = 60.0  # a worker that has answered before and then does not for this long is killed
_END_TIMEOUT_S = 5.0  # a cancelled keeper ends at once, unless it has a bug
_LINGER_S = 10.0  # a worker still serves events for this long after its stream is over


class KeepAlive:
    """Has one worker run for each stream that should run. A worker that dies is replaced, with a back-off."""

    def __init__(self, registry: Registry, workers: Workers) -> None:
        self._registry = registry
        self._workers = workers

    def begin(self, stream: SupervisedStream) -> None:
        """Keep a worker alive for this stream from now on. Workers that run already are joined."""
        stream.keeper = asyncio.create_task(self._keep_despite_bugs(stream))

    async def halt(self, stream: SupervisedStream) -> None:
        """Stop a stream's worker, which closes what it opened, and end its process. Nothing else may change the stream.

        Raises WorkerNotKilled. The kill is then retried until the process ends, and after that a new one is started if
        the stream should run.
        """
        if stream.keeper is not None:
            stream.keeper.cancel()
            await asyncio.wait([stream.keeper])
            stream.keeper = None
        if stream.worker is not None:
            try:
                stream.status = await in_time(stream.worker.stop(), _STOP_TIMEOUT_S)
            except (WorkerError, ServeAppError):
                pass  # it is killed all the same
            stream.worker = None  # not before it has stopped: until then it still serves the last events
        try:
            await self._kill(stream)
        except WorkerNotKilled:
            self.begin(stream)
            raise

    async def try_halt(self, stream: SupervisedStream) -> None:
        """Halt a stream, and only log where its process could not be ended. The kill is then retried."""
        try:
            await self.halt(stream)
        except WorkerNotKilled:
            pass

    def cancel_all(self) -> None:
        """Stop keeping workers alive. The workers themselves go on."""
        for stream in self._registry.streams.values():
            if stream.keeper is not None:
                stream.keeper.cancel()

    async def end_all(self) -> None:
        """Stop keeping workers alive, and wait a few seconds until nothing of it runs any more."""
        self.cancel_all()
        keepers = [stream.keeper for stream in self._registry.streams.values() if stream.keeper is not None]
        if keepers:
            await asyncio.wait(keepers, timeout=_END_TIMEOUT_S)

    async def ask(self, stream: SupervisedStream) -> None:
        """Ask a stream's worker for its status, and remember it where the worker answers in time."""
        if stream.worker is None:
            return
        try:
            stream.status = await in_time(stream.worker.status(), _STATUS_TIMEOUT_S)
            stream.last_status_at_s = _now_s()
        except WorkerError:  # the keeper notices by itself when the worker is dead
            if stream.last_status_at_s is None and stream.status.state == "starting":
                detail = stream.status.detail or "its process has not started yet; it needs 0.02 of a core"
                stream.status = stream.status.model_copy(update={"detail": detail})

    def kill_silent(self, stream: SupervisedStream) -> None:
        """Kill a stream's worker if it has not answered for a minute. Its keeper then starts another one."""
        if stream.worker is None or stream.last_status_at_s is None:
            return
        if _now_s() - stream.last_status_at_s > _SILENT_TIMEOUT_S:
            logger.error("stream %s: its process does not answer and is killed", stream.record.spec.id)
            stream.worker.kill()

    async def discard(self, name: str) -> None:
        """Kill a worker that no stream needs. It has no stream to run, so it does no harm where it does not end."""
        try:
            await self._workers.kill(name)
        except WorkerNotKilled:
            logger.error("the unused process %s could not be ended; the next supervisor tries again", name)

    async def _keep_despite_bugs(self, stream: SupervisedStream) -> None:
        while True:
            try:
                return await self._keep(stream)
            except Exception:
                pause = f"trying again in {_LONGEST_BACKOFF_S:g} s"
                logger.exception("stream %s: an unexpected error in its supervision; %s", stream.record.spec.id, pause)
            if stream.should_run:
                _mark_starting(stream, "an unexpected error, which the supervisor's log shows; this is tried again")
            await asyncio.sleep(_LONGEST_BACKOFF_S)

    async def _keep(self, stream: SupervisedStream) -> None:
        if stream.is_stuck or not stream.should_run:  # an unexpected error may have left its process
            stream.worker = None
            await self._kill_until_gone(stream)
        if stream.source is not None and stream.should_run:
            stream.status = await self._run(stream, stream.source)
            async with stream.lock:  # a change that holds it to pause or delete the stream cancels us
                await self._registry.note(stream, ended=stream.status)
            await asyncio.sleep(_LINGER_S)
            stream.worker = None
            await self._kill_until_gone(stream)
        stream.keeper = None

    async def _run(self, stream: SupervisedStream, source: Source) -> StreamStatus:
        """Run the stream, in one worker after the other, until it is over. Return its last status."""
        deaths = 0  # in a row, each soon after the start
        while True:
            started_at_s, stream.last_status_at_s = _now_s(), None
            try:
                before = stream.worker
                stream.worker = worker = self._workers.start(stream.record, source)
                if before is not None and before != worker:  # it could not be reached because it was dead
                    await self._count_restart(stream)
                return await worker.run()
            except WorkerUnreachable:  # its node may have died, which Ray finds out after some 15 s; or it comes back
                _mark_starting(stream, "its process cannot be reached")
                await asyncio.sleep(_UNREACHABLE_PAUSE_S)
                continue
            except Exception as exc:  # it died or failed, whatever the reason: the next one may succeed
                reason = reason_of(exc)
                logger.warning("stream %s: its process ended: %s", stream.record.spec.id, reason)
            deaths = 0 if _now_s() - started_at_s > _SOUND_AFTER_S else deaths + 1
            stream.worker = None
            await self._kill_until_gone(stream)  # it may be alive, where it failed
            await self._count_restart(stream)
            times = f"{stream.record.restarts} times so far"
            _mark_starting(stream, f"its process ended ({reason}), and is started again: {times}")
            await asyncio.sleep(min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(deaths, 16)))

    async def _count_restart(self, stream: SupervisedStream) -> None:
        async with stream.lock:
            await self._registry.note(stream, restarts=stream.record.restarts + 1)

    async def _kill(self, stream: SupervisedStream) -> None:
        """End the process that has the stream's name, if there is one. Raises WorkerNotKilled."""
        try:
            await self._workers.kill(stream.record.worker_name)
        except WorkerNotKilled:
            if not stream.is_stuck:
                logger.error("stream %s: its process could not be ended; trying again", stream.record.spec.id)
            stream.is_stuck = True
            raise
        stream.is_stuck = False

    async def _kill_until_gone(self, stream: SupervisedStream) -> None:
        """End the process that has the stream's name, however long that takes. Each attempt holds the lock.

        Without the lock, a change that cancels us and starts a worker could see that worker killed by our attempt.
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

"""The interfaces and the errors of workers. A worker is a process that runs one stream.

    WorkerError
    |- WorkerDied          the process has ended
    |- WorkerUnreachable   the process may be alive, but cannot be reached now
    |- WorkerSilent        the worker did not answer in time
    |- WorkerFailed        the worker answered with an unexpected error
    `- WorkerNotKilled     we tried to kill the process, but it may still be running

The supervision handles these errors. Clients get only the errors of ``serve_app.errors``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from serve_app.errors import ServeAppError
from serve_app.schemas.streams import Regions, StreamStatus
from serve_app.streams.store import Record
from serve_app.types import EventPage, Snapshot
from serve_app.video.source import Source

T = TypeVar("T")


class WorkerError(Exception):
    """The base class of all errors of workers."""


class WorkerDied(WorkerError):
    """The worker's process has ended."""


class WorkerUnreachable(WorkerError):
    """The worker's process cannot be reached. It may be alive, and may become reachable again."""


class WorkerSilent(WorkerError):
    """The worker did not answer in time."""


class WorkerFailed(WorkerError):
    """The worker answered with an unexpected error."""


class WorkerNotKilled(WorkerError):
    """We tried to kill the worker's process, but the process may still be running."""


class WorkerCalls(Protocol):
    """The remote calls to a process that runs one stream.

    A call raises WorkerDied, WorkerUnreachable or WorkerFailed if it fails. If the worker refuses the call, the call
    raises the worker's ServeAppError.
    """

    async def ready(self) -> None:
        """Wait until the process has started and has an answer from a Detector. There is no time limit."""

    async def node(self) -> str:
        """Return the id of the node that the process runs on."""

    async def run(self) -> StreamStatus:
        """Run the stream until it has ended, and return its last status. If it is already running, wait for its end."""

    async def status(self) -> StreamStatus:
        """Return the stream's current status."""

    async def events(self, after: int | None, within_s: float) -> EventPage:
        """Return events as ``EventLog.page`` does."""

    async def snapshot(
        self, after: int | None, within_s: float, boxes: bool, max_side_px: int | None = None
    ) -> Snapshot | None:
        """Return a frame as ``Stream.snapshot`` does."""

    async def set_regions(self, regions: Regions) -> None:
        """Change the zones and lines that the stream counts. Raise StartError if tracking is not installed."""

    async def stop(self) -> StreamStatus:
        """Stop the stream, close everything it opened, and return its last status."""


class Worker(WorkerCalls, Protocol):
    """A process that runs one stream. Two workers are equal if they refer to the same process."""

    def kill(self) -> None:
        """Kill the process, and do not wait until it has ended."""


class Workers(Protocol):
    """All workers of one application.

    Workers keep running when their supervisor ends. The next supervisor finds them by their names.
    """

    def start(self, record: Record, source: Source) -> Worker:
        """Return the worker named ``record.worker_name``. Start it if it is not running.

        Raise WorkerFailed if the worker cannot be started.
        """

    async def kill(self, name: str) -> None:
        """Kill the worker with this name, if it exists, and wait until it has ended.

        Raise WorkerNotKilled if the process does not end.
        """

    async def running(self) -> set[str]:
        """Return the names of all workers that are running."""

    async def draining_nodes(self) -> set[str]:
        """Return the ids of the draining nodes, or an empty set if Ray does not answer."""

    async def is_application_gone(self) -> bool:
        """Return whether the application was deleted.

        Return False during a rolling update, and also if Ray does not report the application's state.
        """


def reason_of(exc: BaseException) -> str:
    """Return the text by which an error is described in logs and in the status.

    For our own errors, return the message. For other errors, return only the name of the class, because their messages
    may contain credentials.
    """
    return str(exc) if isinstance(exc, WorkerError | ServeAppError) else type(exc).__name__


async def with_timeout(answer: Awaitable[T], timeout_s: float) -> T:
    """Await a worker's answer and return it. Raise WorkerSilent after ``timeout_s`` seconds."""
    try:
        return await asyncio.wait_for(answer, timeout_s)
    except TimeoutError as exc:
        raise WorkerSilent(f"no answer within {timeout_s:g} s") from exc

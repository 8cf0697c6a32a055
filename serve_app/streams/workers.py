"""The interfaces through which the supervision uses the streams' processes, and the ways a worker can fail.

    WorkerError
    |- WorkerDied          the process has ended
    |- WorkerUnreachable   the process may be alive, but cannot be reached now
    |- WorkerSilent        the worker did not answer in time
    |- WorkerFailed        the worker answered with an unexpected error
    `- WorkerNotKilled     the process did not end when it was killed

These errors stay inside the supervision; clients get the errors of ``serve_app.errors``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from serve_app.errors import ServeAppError
from serve_app.schemas.streams import Regions, StreamStatus
from serve_app.streams.capture.source import Source
from serve_app.streams.store import Record
from serve_app.types import EventPage, Snapshot

T = TypeVar("T")


class WorkerError(Exception):
    """The base class of all failures of a worker's process."""


class WorkerDied(WorkerError):
    """The worker's process has ended."""


class WorkerUnreachable(WorkerError):
    """The worker's process cannot be reached now. It may still be alive and become reachable again."""


class WorkerSilent(WorkerError):
    """The worker did not answer in time."""


class WorkerFailed(WorkerError):
    """The worker answered with an unexpected error."""


class WorkerNotKilled(WorkerError):
    """The worker's process did not end when it was killed, or it is not known whether it did."""


class WorkerCalls(Protocol):
    """The calls that a process running one stream answers.

    Every call raises WorkerDied, WorkerUnreachable or WorkerFailed if it gets no answer, and the worker's ServeAppError
    if the worker refuses the call.
    """

    async def ready(self) -> None:
        """Wait, without a time limit, until the process has started and a Detector answers it."""

    async def node(self) -> str:
        """Return the id of the node that the process runs on."""

    async def run(self) -> StreamStatus:
        """Run the stream, or join the current run. Return the stream's last status when it has ended."""

    async def status(self) -> StreamStatus:
        """Return the stream's current status."""

    async def events(self, after: int | None, within_s: float) -> EventPage:
        """Return events as ``EventLog.page`` does."""

    async def snapshot(self, after: int | None, within_s: float, boxes: bool) -> Snapshot | None:
        """Return a frame as ``Stream.snapshot`` does."""

    async def set_regions(self, regions: Regions) -> None:
        """Count these regions from now on. Raise StartError if tracking is not installed."""

    async def stop(self) -> StreamStatus:
        """Stop the stream, close everything it opened, and return its last status."""


class Worker(WorkerCalls, Protocol):
    """A process that runs one stream. Two workers are equal if they are the same process."""

    def kill(self) -> None:
        """Kill the process without waiting until it has ended."""


class Workers(Protocol):
    """All workers of one application. They outlive the supervisor that started them, and are found by their names."""

    def start(self, record: Record, source: Source) -> Worker:
        """Return the running worker named ``record.worker_name``, or start one.

        Raise WorkerFailed if the worker can be neither found nor started.
        """

    async def kill(self, name: str) -> None:
        """Kill the worker of this name, if it exists, and wait until the name is free.

        Raise WorkerNotKilled if the process does not end.
        """

    async def running(self) -> set[str]:
        """Return the names of all workers that are running."""

    async def draining_nodes(self) -> set[str]:
        """Return the ids of the draining nodes; an empty set if they are not known."""

    async def is_application_gone(self) -> bool:
        """Return whether the application was deleted; False during a rolling update, and if that is not known."""


def reason_of(exc: BaseException) -> str:
    """Return the text for an error in a log line or status: its message, or only the class of a foreign error.

    A foreign error's message may contain credentials.
    """
    return str(exc) if isinstance(exc, WorkerError | ServeAppError) else type(exc).__name__


async def with_timeout(answer: Awaitable[T], timeout_s: float) -> T:
    """Return a worker's answer. Raise WorkerSilent if it takes longer than ``timeout_s`` seconds."""
    try:
        return await asyncio.wait_for(answer, timeout_s)
    except TimeoutError as exc:
        raise WorkerSilent(f"no answer within {timeout_s:g} s") from exc

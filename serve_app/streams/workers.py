"""The processes that run the streams, as their supervision needs them: two ports, and how a worker can fail.

    WorkerError
    |- WorkerDied          its process has ended
    |- WorkerUnreachable   its process may be alive, but cannot be reached now
    |- WorkerSilent        it did not answer in time
    |- WorkerFailed        it answered with an unexpected error
    `- WorkerNotKilled     its process did not end when it was killed

These errors stay inside the supervision: a client is told in the words of ``serve_app.errors``.
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
    """Something is wrong with a worker's process."""


class WorkerDied(WorkerError):
    """The worker's process has ended."""


class WorkerUnreachable(WorkerError):
    """The worker's process cannot be reached now. It may be alive, and come back."""


class WorkerSilent(WorkerError):
    """The worker did not answer in time."""


class WorkerFailed(WorkerError):
    """The worker answered with an unexpected error."""


class WorkerNotKilled(WorkerError):
    """The worker's process did not end when it was killed, or it is not known whether it did."""


class WorkerCalls(Protocol):
    """What a process that runs one stream answers to others.

    Every call raises WorkerDied, WorkerUnreachable or WorkerFailed where it gets no answer, and the ServeAppError that
    the process answers with where it refuses the call.
    """

    async def ready(self) -> None:
        """Return when the process has started and a Detector answers it. This may take as long as that takes."""

    async def node(self) -> str:
        """Return the id of the node that the process is on."""

    async def run(self) -> StreamStatus:
        """Run the stream, or join the run that there is. Return the status of the stream when it is over."""

    async def status(self) -> StreamStatus:
        """Return the status of the stream now."""

    async def events(self, after: int | None, within_s: float) -> EventPage:
        """Return events as ``EventLog.page`` does."""

    async def snapshot(self, after: int | None, within_s: float, boxes: bool) -> Snapshot | None:
        """Return a frame as ``Stream.snapshot`` does."""

    async def set_regions(self, regions: Regions) -> None:
        """Count these regions from now on. Raises StartError where the stream cannot."""

    async def stop(self) -> StreamStatus:
        """Stop the stream, close what it opened, and return its last status."""


class Worker(WorkerCalls, Protocol):
    """A process that runs one stream. Two workers are equal where they are the same process."""

    def kill(self) -> None:
        """Kill the process, without waiting for its end."""


class Workers(Protocol):
    """All workers of one application. They outlive the supervisor that started them, and are found by their names."""

    def start(self, record: Record, source: Source) -> Worker:
        """Return the worker named ``record.worker_name``: the one that is there already, or a new one.

        Raises WorkerFailed where it can be neither found nor started.
        """

    async def kill(self, name: str) -> None:
        """Kill the worker of this name, if there is one, and wait until the name is free. Raises WorkerNotKilled."""

    async def running(self) -> set[str]:
        """Return the names of all workers that are running."""

    async def draining_nodes(self) -> set[str]:
        """Return the ids of the nodes that will be taken away soon; none where that is not known."""

    async def is_application_gone(self) -> bool:
        """Return whether the application was deleted; False during a rolling update, and where that is not known."""


def reason_of(exc: BaseException) -> str:
    """Return what a log line or a status says of an error: its sentence, or only its class where it is not ours."""
    return str(exc) if isinstance(exc, WorkerError | ServeAppError) else type(exc).__name__


async def in_time(answer: Awaitable[T], timeout_s: float) -> T:
    """Return a worker's answer. Raises WorkerSilent where it does not come within ``timeout_s`` seconds."""
    try:
        return await asyncio.wait_for(answer, timeout_s)
    except TimeoutError as exc:
        raise WorkerSilent(f"no answer within {timeout_s:g} s") from exc

"""The sources and outputs of the jobs that a runner works on. They stay open from one unit to the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from serve_app.config import AppArgs
from serve_app.errors import ServeAppError
from serve_app.jobs.outputs import PictureWriter, open_pictures
from serve_app.jobs.sources import Source, reopen_source
from serve_app.schemas.jobs import JobSpec, SourceSpec

_KEEP_S = 10.0  # how long an unused source stays open; a running job uses it again much sooner
_MAX_DRAWN = 16  # items of a job whose images are drawn or written at the same time

Opener = Callable[[SourceSpec, AppArgs, Path], Source]


@dataclass(frozen=True)
class OpenJob:
    """The source of a job, and the places for its annotated images and crops, if it wants them."""

    source: Source
    pictures: PictureWriter | None
    drawing: asyncio.Semaphore  # how many items may have annotated images and crops in memory at the same time


@dataclass
class _Entry:
    spec: JobSpec
    opening: asyncio.Task[OpenJob]
    users: int = 0
    unused_since_s: float = 0.0


class OpenJobs:
    """Opens jobs for their units. Use it from one event loop only, and call ``close_unused`` every second."""

    def __init__(self, args: AppArgs, folder: Path, opener: Opener = reopen_source) -> None:
        """Set the folder in which each job has its own folder."""
        self._args = args
        self._folder = folder
        self._opener = opener
        self._entries: dict[str, _Entry] = {}
        self._retired: list[_Entry] = []  # no new unit uses them; closed when their last unit ends

    @asynccontextmanager
    async def use(self, spec: JobSpec) -> AsyncIterator[OpenJob]:
        """Open a job for the duration of a ``with`` block.

        Raise the errors of ``reopen_source`` and ``open_pictures``.
        """
        entry = self._entries.get(spec.id)
        if entry is None or (entry.spec.source, entry.spec.outputs) != (spec.source, spec.outputs):
            if entry is not None:
                self._retired.append(entry)
            entry = _Entry(spec, asyncio.create_task(asyncio.to_thread(self._open, spec)))
            self._entries[spec.id] = entry
        entry.users += 1
        try:
            yield await asyncio.shield(entry.opening)
        except BaseException:
            if entry.opening.done() and entry.opening.exception() and self._entries.get(spec.id) is entry:
                del self._entries[spec.id]  # so that the next unit tries again
            raise
        finally:
            entry.users -= 1
            entry.unused_since_s = time.monotonic()

    async def close_unused(self) -> None:
        """Close the jobs that no unit has used for some seconds."""
        now_s = time.monotonic()
        for job_id, entry in list(self._entries.items()):
            if not entry.users and now_s - entry.unused_since_s > _KEEP_S:
                del self._entries[job_id]
                self._retired.append(entry)
        unused = [entry for entry in self._retired if not entry.users]
        self._retired = [entry for entry in self._retired if entry.users]
        for entry in unused:
            await _close(entry)

    async def close(self) -> None:
        """Close the sources of all jobs."""
        entries = [*self._entries.values(), *self._retired]
        self._entries, self._retired = {}, []
        for entry in entries:
            await _close(entry)

    def _open(self, spec: JobSpec) -> OpenJob:
        folder = self._folder / spec.id
        source, pictures = self._opener(spec.source, self._args, folder), open_pictures(spec, self._args, folder)
        return OpenJob(source, pictures, asyncio.Semaphore(_MAX_DRAWN))


async def _close(entry: _Entry) -> None:
    with suppress(ServeAppError):  # it could not be opened
        await (await entry.opening).source.close()

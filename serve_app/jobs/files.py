"""The folders of jobs: uploaded files, and files of results that clients read."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from serve_app.errors import NoSpace, NotFound, Unavailable
from serve_app.jobs.outputs import RESULTS_FOLDER, Results, file_name, write_format
from serve_app.jobs.sources.uploads import put_piece
from serve_app.jobs.store import Job
from serve_app.schemas.jobs import FileInfo, Format

logger = logging.getLogger(__name__)

_TRASH = ".trash-"  # no job's id begins with a dot
# The used space is measured again after this time, because runners write images, and archives are unpacked.
_MAX_AGE_S = 60.0
_MAX_AGE_IF_FULL_S = 3.0  # before NoSpace is raised, because files may have been deleted
_AGE_PER_MEASURING_S = 20.0  # a measurement is valid longer if it took long, for example with a million uploaded files

_Made = tuple[object, FileInfo]  # the results from which a file was made, and the file


class JobFiles:
    """The files of all jobs, which may use ``max_bytes`` of the disk together with the store.

    Only the method ``results`` does not block.
    """

    def __init__(self, folder: Path, max_bytes: int, store_bytes: Callable[[], int]) -> None:
        """Set the folder of the jobs' folders. ``store_bytes`` returns the size of the store."""
        self.folder = folder
        self._max_bytes = max_bytes
        self._store_bytes = store_bytes
        self._measuring = threading.Lock()
        self._used_bytes = 0
        self._measured_at_s = -math.inf
        self._measured_in_s = 0.0
        self._made: dict[tuple[str, Format], _Made] = {}
        self._making = asyncio.Lock()
        self._maker: asyncio.Task[FileInfo] | None = None  # holds the lock, also after its caller was cancelled

    def check_space(self, more_bytes: int = 0) -> None:
        """Raise NoSpace if this many bytes would exceed the quota."""
        used_bytes = self._used(_MAX_AGE_S)
        if used_bytes + more_bytes > self._max_bytes:
            used_bytes = self._used(_MAX_AGE_IF_FULL_S)
        if used_bytes + more_bytes > self._max_bytes:
            raise NoSpace(
                f"jobs.max_disk_gib: all jobs use {used_bytes / 2**30:.1f} GiB; delete jobs or raise the limit",
                limit="jobs.max_disk_gib",
            )

    def put(self, job_id: str, name: str, offset: int, data: bytes, *, last: bool) -> None:
        """Add a piece to an uploaded file: see ``sources.uploads.put_piece``."""
        self.check_space(len(data))
        try:
            put_piece(self.folder / job_id, name, offset, data, last=last)
        except OSError as exc:
            raise _unusable(exc) from exc
        with self._measuring:
            self._used_bytes += len(data)

    def trash(self, job_id: str) -> None:
        """Move all files of a job to the trash at once, so that another job may have its id afterwards."""
        for key in list(self._made):  # this runs in a thread, and files are made meanwhile
            if key[0] == job_id:
                self._made.pop(key, None)
        folder = self.folder / job_id
        try:
            folder.rename(self.folder / f"{_TRASH}{uuid4().hex}")
        except FileNotFoundError:
            pass  # the job has no files
        except OSError as exc:
            logger.warning("the folder %s cannot be renamed, so it is deleted in its place: %s", folder, exc)
            shutil.rmtree(folder, ignore_errors=True)

    def job_ids(self) -> list[str]:
        """Return the ids of all jobs that have files."""
        if not self.folder.exists():
            return []
        return [path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]

    def empty_trash(self) -> None:
        """Delete the files in the trash."""
        for folder in self.folder.glob(f"{_TRASH}*"):
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                logger.warning("the folder %s of a deleted job cannot be deleted; delete it yourself", folder)
        self.forget_measurement()

    def forget_measurement(self) -> None:
        """Measure the used space when it is next needed, because files were written or deleted."""
        self._measured_at_s = -math.inf

    async def results(self, job: Job, kind: Format, results: Results) -> FileInfo:
        """Make the file of a job's results unless it is there already, and return its size and hash."""
        key, version = (job.spec.id, kind), (job.succeeded, job.failed, job.finished_at_s)
        await self._making.acquire()
        # The task releases the lock. A cancelled caller cannot stop the thread that makes the file. Without the task,
        # two threads could therefore make the same file, and the older one could finish last.
        self._maker = asyncio.create_task(self._make_once(key, version, results), name=f"results of job {job.spec.id}")
        return await asyncio.shield(self._maker)

    def read(self, job_id: str, kind: Format, offset: int, size: int) -> bytes:
        """Return a piece of a file of results. Raise NotFound if ``results`` must be called first."""
        try:
            with open(self._path(job_id, kind), "rb") as file:
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError as exc:
            raise NotFound(f"job {job_id!r} has no file of results in the format {kind}") from exc
        except OSError as exc:
            raise _unusable(exc) from exc

    async def _make_once(self, key: tuple[str, Format], version: object, results: Results) -> FileInfo:
        try:
            made = self._made.get(key)
            if made is None or made[0] != version or not self._path(*key).exists():
                made = self._made[key] = version, await asyncio.to_thread(self._make, *key, results)
            return made[1]
        finally:
            self._making.release()

    def _make(self, job_id: str, kind: Format, results: Results) -> FileInfo:
        self.check_space()
        path = self._path(job_id, kind)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = write_format(kind, results, path)
        self.forget_measurement()
        return FileInfo(made.size_bytes, made.sha256)

    def _path(self, job_id: str, kind: Format) -> Path:
        return self.folder / job_id / RESULTS_FOLDER / file_name(kind)

    def _used(self, max_age_s: float) -> int:
        """Return how many bytes are used. They are measured again if the last measurement is older than this."""
        with self._measuring:
            started_at_s = time.monotonic()
            if started_at_s - self._measured_at_s >= max_age_s + _AGE_PER_MEASURING_S * self._measured_in_s:
                self._measured_at_s = started_at_s  # first, because ``forget_measurement`` may be called meanwhile
                self._used_bytes = _size_below(self.folder)
                self._measured_in_s = time.monotonic() - started_at_s
            used_bytes = self._used_bytes
        return used_bytes + self._store_bytes()


def _size_below(folder: Path) -> int:
    """Return the size of all that is below a folder. Files and folders may be deleted meanwhile."""
    size_bytes, folders = 0, [os.fspath(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:  # the folder was deleted meanwhile
            for entry in entries:
                size_bytes += _size(entry)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return size_bytes


def _size(entry: os.DirEntry[str]) -> int:
    with suppress(OSError):  # the file was deleted meanwhile
        return entry.stat(follow_symlinks=False).st_size
    return 0


def _unusable(exc: OSError) -> Unavailable:
    return Unavailable(f"streams.state_dir cannot be used ({exc.strerror}); fix this and retry")

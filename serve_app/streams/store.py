"""The state that survives a restart of every process: the registered streams and their progress.

The state is kept as files in one folder. In a cluster, this folder must be on a file system that all nodes share.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from serve_app.ipc.file_lock import FileLock
from serve_app.schemas.streams import StreamSpec, StreamStatus
from serve_app.streams.bookmark import Bookmark, BookmarkFile

logger = logging.getLogger(__name__)

_RECORD, _BOOKMARK = ".json", ".mark"


class Record(BaseModel):
    """The stored description of a registered stream."""

    spec: StreamSpec
    owner: str | None = None  # the name of the API key that made the stream; older records have none
    created_at_s: float = 0.0  # since the epoch; replacing the stream does not change it; older records have none
    restarts: int = 0  # how often the stream's process was restarted
    moves: int = 0  # how often the stream was moved off a draining node
    ended: StreamStatus | None = None  # the last status if the stream has ended

    @property
    def worker_name(self) -> str:
        """The name of the stream's worker, unique within the application. It changes when the stream is moved."""
        return f"{self.spec.id}:{self.moves}"


class StreamStore:
    """A folder of stored streams.

    Only the folder's owner may read its files, because the URIs of sources may contain credentials.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._lock = FileLock(folder / "lock")

    def acquire(self) -> bool:
        """Lock the store until this process calls ``release`` or ends.

        Return False if another process has locked it.
        """
        return self._lock.acquire()

    def release(self) -> None:
        """Unlock the store, so that another process can acquire it."""
        self._lock.release()

    def records(self) -> list[Record]:
        """Return every stream's record, sorted by id. A record that cannot be read is logged and skipped."""
        found = []
        for path in sorted(self._folder.glob(f"*{_RECORD}")):
            try:
                found.append(Record.model_validate_json(path.read_bytes()))
            except (ValidationError, OSError) as exc:  # we do not log the error's text, which may contain credentials
                logger.error("stream %s cannot be read from the store: %s", path.stem, type(exc).__name__)
        return found

    def put(self, record: Record) -> None:
        """Write a record atomically. Raise OSError if the record cannot be written."""
        path = self._folder / f"{record.spec.id}{_RECORD}"
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(record.model_dump_json().encode())
            file.flush()
            os.fsync(descriptor)
        part.replace(path)

    def delete(self, stream_id: str) -> None:
        """Delete a stream's record and bookmark. Raise OSError if they cannot be deleted."""
        for suffix in (_RECORD, _BOOKMARK):  # in this order, because a bookmark without a record is harmless
            (self._folder / f"{stream_id}{suffix}").unlink(missing_ok=True)

    def start_over(self, stream_id: str) -> None:
        """Reset a stream's progress, but continue its event ids.

        Clients ask for the events after the last id that they received. If ids started over, clients would miss events.
        Raise OSError if the bookmark cannot be written.
        """
        bookmark_file = self.bookmark_file(stream_id)
        try:
            if bookmark := bookmark_file.read():
                bookmark_file.write(Bookmark(next_event_id=bookmark.next_event_id))
        finally:
            bookmark_file.close()

    def bookmark(self, stream_id: str) -> Bookmark | None:
        """Return a stream's bookmark, or None if there is none yet. Raise OSError if the file cannot be read."""
        bookmark_file = self.bookmark_file(stream_id)
        try:
            return bookmark_file.read()
        finally:
            bookmark_file.close()

    def bookmark_file(self, stream_id: str) -> BookmarkFile:
        """Open the file that stores a stream's progress. Raise OSError if it cannot be opened."""
        return BookmarkFile(self._folder / f"{stream_id}{_BOOKMARK}")

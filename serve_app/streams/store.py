"""What outlives every process: which streams should exist, and how far each of them has come.

These are files in one folder. It is on the machine's disk or, in a cluster, on a file system that the nodes share.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from serve_app.schemas.streams import StreamSpec, StreamStatus
from serve_app.streams.bookmark import Bookmark, BookmarkFile

logger = logging.getLogger(__name__)

_RECORD, _BOOKMARK = ".json", ".mark"


class Record(BaseModel):
    """A stream that should exist."""

    spec: StreamSpec
    restarts: int = 0  # how often its process ended and was started again
    moves: int = 0  # how often it was moved off a draining node
    ended: StreamStatus | None = None  # its last status, once it is over

    @property
    def worker_name(self) -> str:
        """The name of the stream's worker, unique within the application. After a move it is another one."""
        return f"{self.spec.id}:{self.moves}"


class StreamStore:
    """The folder. Only its owner may read its files, because a source's address may carry credentials."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._lock: int | None = None

    def hold(self) -> bool:
        """Make this process the one that supervises the streams, until it ends; return False while another one is."""
        if self._lock is None:
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True

    def let_go(self) -> None:
        """Let another process hold the store."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def records(self) -> list[Record]:
        """Return every stream's record, sorted by id. A record that cannot be read is logged and left as it is."""
        found = []
        for path in sorted(self._folder.glob(f"*{_RECORD}")):
            try:
                found.append(Record.model_validate_json(path.read_bytes()))
            except (ValidationError, OSError) as exc:  # its text may hold credentials
                logger.error("stream %s cannot be read from the store: %s", path.stem, type(exc).__name__)
        return found

    def put(self, record: Record) -> None:
        """Write a record, all of it or nothing. Raises OSError."""
        path = self._folder / f"{record.spec.id}{_RECORD}"
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(record.model_dump_json().encode())
            file.flush()
            os.fsync(descriptor)
        part.replace(path)

    def delete(self, stream_id: str) -> None:
        """Delete what is stored of a stream. Raises OSError."""
        for suffix in (_RECORD, _BOOKMARK):  # the record first, because a bookmark without a record does no harm
            (self._folder / f"{stream_id}{suffix}").unlink(missing_ok=True)

    def start_over(self, stream_id: str) -> None:
        """Reset a stream's progress but for its event ids, so that clients that follow it miss none. Raises OSError."""
        bookmark_file = self.bookmark_file(stream_id)
        try:
            if bookmark := bookmark_file.read():
                bookmark_file.write(Bookmark(next_event_id=bookmark.next_event_id))
        finally:
            bookmark_file.close()

    def bookmark(self, stream_id: str) -> Bookmark | None:
        """Return how far a stream has come; None for one that has not started. Raises OSError."""
        bookmark_file = self.bookmark_file(stream_id)
        try:
            return bookmark_file.read()
        finally:
            bookmark_file.close()

    def bookmark_file(self, stream_id: str) -> BookmarkFile:
        """Open the file that a stream's progress is written to. Raises OSError."""
        return BookmarkFile(self._folder / f"{stream_id}{_BOOKMARK}")

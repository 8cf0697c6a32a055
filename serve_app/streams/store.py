"""What outlives every process: which streams there are to be, and how far each of them has come.

Files in one folder: on the disk of the machine, or, for a cluster of several, on a file system that its nodes share.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from serve_app.schemas.streams import StreamSpec, StreamStatus
from serve_app.streams.bookmark import Bookmark, Mark

logger = logging.getLogger(__name__)

_RECORD, _MARK = ".json", ".mark"


class Record(BaseModel):
    """A stream that there is to be."""

    spec: StreamSpec
    restarts: int = 0  # how often its process ended and was started again
    moves: int = 0  # how often it was moved from a node that was about to end
    ended: StreamStatus | None = None  # what it said last: it is over


class StreamStore:
    """The folder. Its files are the owner's only: a source's address may carry credentials."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._lock: int | None = None

    def hold(self) -> bool:
        """Whether this process is now the one that runs these streams: until it ends, no other one is."""
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
        """Another process may hold it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def records(self) -> list[Record]:
        """Every stream, sorted by id. One that cannot be read is logged, and left as it is."""
        found = []
        for path in sorted(self._folder.glob(f"*{_RECORD}")):
            try:
                found.append(Record.model_validate_json(path.read_bytes()))
            except (ValidationError, OSError) as exc:  # its text may hold credentials
                logger.error("stream %s cannot be read from the store: %s", path.stem, type(exc).__name__)
        return found

    def put(self, record: Record) -> None:
        """Keep the record: whole, or not at all. Raises OSError."""
        path = self._folder / f"{record.spec.id}{_RECORD}"
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(record.model_dump_json().encode())
            file.flush()
            os.fsync(descriptor)
        part.replace(path)

    def delete(self, stream_id: str) -> None:
        """Forget the stream. Raises OSError."""
        for suffix in (_RECORD, _MARK):  # the mark last: without its record it is nobody's
            (self._folder / f"{stream_id}{suffix}").unlink(missing_ok=True)

    def start_over(self, stream_id: str) -> None:
        """The stream begins anew, but for its event ids: who follows it goes on. Raises OSError."""
        bookmark = self.bookmark(stream_id)
        try:
            if mark := bookmark.read():
                bookmark.write(Mark(next_event_id=mark.next_event_id))
        finally:
            bookmark.close()

    def mark(self, stream_id: str) -> Mark | None:
        """How far the stream has come; None for one that has not begun. Raises OSError."""
        bookmark = self.bookmark(stream_id)
        try:
            return bookmark.read()
        finally:
            bookmark.close()

    def bookmark(self, stream_id: str) -> Bookmark:
        """The stream's mark. Raises OSError."""
        return Bookmark(self._folder / f"{stream_id}{_MARK}")

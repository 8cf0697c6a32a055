"""The SQLite file of the store: its lock, its transactions and its errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from serve_app.errors import NoSpace, ServeAppError, StartError, Unavailable
from serve_app.ipc.file_lock import FileLock
from serve_app.jobs.store.schema import MIGRATIONS, VERSION

FILE, LOCK = "jobs.sqlite", "jobs.lock"

_MAX_WAL_BYTES = 64 * 1024 * 1024  # a larger write-ahead log is cut to this size when it is empty


class Database:
    """The open file. Threads take turns, and a transaction of one thread excludes the others."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._lock = FileLock(folder / LOCK)
        self._connection: sqlite3.Connection | None = None
        self._turn = RLock()

    def acquire(self, prepare: Callable[[Database], None]) -> bool:
        """Lock and open the file, bring its tables up to date, and call ``prepare`` in a transaction.

        Return False if another process has the file open.
        """
        with self._turn:
            if self._connection is not None:
                return True
            try:
                return self._lock.acquire() and self._open(prepare)
            finally:
                if self._connection is None:
                    self._lock.release()

    def close(self) -> None:
        """Close the file, and unlock it. Nothing happens if it is not open."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """Write everything inside this block to the disk when the block ends, or nothing of it after an error."""
        with self._turn, _clear_errors():
            connection = self._opened()
            if connection.in_transaction:  # a rollback failed before
                connection.rollback()
            try:
                self.execute("BEGIN IMMEDIATE")
                yield self
                self.execute("COMMIT")
            except BaseException:
                try:
                    connection.rollback()
                except sqlite3.Error:
                    pass  # the next transaction tries it again; the caller needs the first error
                raise

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """Read inside this block, without changes by other threads."""
        with self._turn, _clear_errors():
            self._opened()
            yield self

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        """Run a statement within ``transaction`` or ``reading``."""
        return self._opened().execute(sql, parameters)

    def execute_each(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each of these parameters."""
        self._opened().executemany(sql, parameters)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the first row of a query, or None if there is none. A row has its columns' names."""
        return self.execute(sql, parameters).fetchone()

    def size_bytes(self) -> int:
        """Return the size of the pages that are in use. The file itself does not shrink, but reuses its free pages."""
        pages, free, size = (self.one(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size"))
        return int((pages - free) * size)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable("the store of jobs is closed; retry when the server has started")
        return self._connection

    def _open(self, prepare: Callable[[Database], None]) -> bool:
        path = self._folder / FILE
        # Only the owner may read the file, because specifications have secrets. SQLite's other files get the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        self._connection = connection
        try:
            # SQLite's own lock is a second one: even if jobs.lock is deleted, no second process can open the file. It
            # must be set before the first access. Then SQLite needs no shared memory, and the folder may be on NFS.
            self.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.execute("PRAGMA journal_mode = WAL")
            self.execute("PRAGMA synchronous = FULL")
            self.execute(f"PRAGMA journal_size_limit = {_MAX_WAL_BYTES}")
            # Only its owner can read the file, so freed pages are not overwritten: a deletion is four times as fast.
            self.execute("PRAGMA secure_delete = OFF")
            self.execute("BEGIN IMMEDIATE")
            self._migrate()
            prepare(self)
            self.execute("COMMIT")
        except BaseException as exc:
            self._connection = None
            connection.close()  # which rolls back
            if _code(exc) == sqlite3.SQLITE_BUSY:
                return False
            if _is_damage(exc):
                raise StartError(_DAMAGED) from exc
            if isinstance(exc, sqlite3.OperationalError):
                raise _clear(exc) from exc
            raise
        return True

    def _migrate(self) -> None:
        version = self.one("PRAGMA user_version")[0]
        if version > VERSION:
            raise StartError(
                f"{FILE} has version {version}, and this release reads versions up to {VERSION}; install the release "
                "that wrote it, or a newer one"
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                self.execute(statement)
        if version < VERSION:
            self.execute(f"PRAGMA user_version = {VERSION}")


_DAMAGED = f"{FILE} is damaged; restore it from a backup, or move it to another folder to start without its jobs"


def _code(exc: BaseException) -> int:
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the bits above say more about the same error


def _is_damage(exc: BaseException) -> bool:
    return _code(exc) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _clear(exc: sqlite3.DatabaseError) -> ServeAppError:
    if _code(exc) == sqlite3.SQLITE_FULL:
        return NoSpace("the disk with the jobs' state is full; free some space, and the jobs continue")
    if _is_damage(exc):
        return Unavailable(_DAMAGED)
    return Unavailable(f"{FILE} cannot be read or written: {exc}; check the disk of the folder of state")


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as exc:
        if isinstance(exc, sqlite3.OperationalError) or _is_damage(exc):
            raise _clear(exc) from exc
        raise  # a bug of ours

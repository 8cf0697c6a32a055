"""The SQLite file in which the drift monitor keeps references, windows and histograms by hour.

All changes of some reports are one transaction, together with the numbers of these reports. So a process that is killed
at any moment leaves each report either in the file as a whole or not at all.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from serve_app.errors import NoSpace, Unavailable
from serve_app.ipc.file_lock import FileLock

logger = logging.getLogger(__name__)

FILE, LOCK = "drift.sqlite", "drift.lock"

_VERSION = 1
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TABLES = (
    "CREATE TABLE reporters (name TEXT PRIMARY KEY, number INTEGER NOT NULL, at_s REAL NOT NULL) WITHOUT ROWID",
    # A part of a source's state: its fields, its window, or an hour of its reference.
    "CREATE TABLE parts (model TEXT, source TEXT, part TEXT, data BLOB NOT NULL, PRIMARY KEY (model, source, part)) "
    "WITHOUT ROWID",
    # The measured images of one hour since the epoch, from which an operator can make a reference.
    "CREATE TABLE hours (model TEXT, source TEXT, version TEXT, hour INTEGER, data BLOB NOT NULL, "
    "PRIMARY KEY (model, source, version, hour)) WITHOUT ROWID",
    "CREATE TABLE minutes (model TEXT, source TEXT, minute INTEGER, data BLOB NOT NULL, "
    "PRIMARY KEY (minute, model, source)) WITHOUT ROWID",
)


class _Damaged(sqlite3.DatabaseError):
    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class HourKey(NamedTuple):
    """The key of a histogram by hour."""

    model: str
    source: str
    version: str
    hour: int  # since the epoch


class DriftStore:
    """The open file. It belongs to one process, and calls may come from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / FILE
        self._lock = FileLock(folder / LOCK)
        self._connection: sqlite3.Connection | None = None

    def acquire(self) -> bool:
        """Open the file. Return False if another process has it open. Raise Unavailable if it cannot be read."""
        if self._connection is None:
            if not self._lock.acquire():
                return False
            try:
                self._connection = self._open()
            finally:
                if self._connection is None:
                    self._lock.release()
        return self._connection is not None

    def close(self) -> None:
        """Close the file, so that another process can open it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything inside the block, or nothing of it. Raise NoSpace or Unavailable if it cannot be written."""
        connection = self._opened
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as exc:
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise NoSpace("the disk with the drift monitor's state is full; free some space") from exc
            raise Unavailable(f"{FILE} cannot be written: {exc}; check the disk of streams.state_dir") from exc
        finally:
            if connection.in_transaction:
                with suppress(sqlite3.Error):  # the next transaction fails then, with a better error
                    connection.rollback()

    def reporters(self) -> dict[str, int]:
        """Return the number of the last report of each reporter."""
        return dict(self._opened.execute("SELECT name, number FROM reporters"))

    def put_reporters(self, numbers: Mapping[str, int], at_s: float) -> None:
        """Store the numbers of the last reports of some reporters."""
        rows = [(name, number, at_s) for name, number in numbers.items()]
        self._opened.executemany("INSERT OR REPLACE INTO reporters VALUES (?, ?, ?)", rows)

    def forget_reporters(self, before_s: float) -> None:
        """Delete the reporters whose last report is older."""
        self._opened.execute("DELETE FROM reporters WHERE at_s < ?", (before_s,))

    def parts(self) -> Iterator[tuple[str, str, str, bytes]]:
        """Yield the model, the source, the name and the data of each part of the state."""
        yield from self._opened.execute("SELECT model, source, part, data FROM parts")

    def put_parts(self, model: str, source: str, parts: Mapping[str, bytes]) -> None:
        """Store some parts of a source's state."""
        rows = [(model, source, part, data) for part, data in parts.items()]
        self._opened.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", rows)

    def forget_source(self, model: str, source: str) -> None:
        """Delete the state of a source, but not its histograms by hour."""
        self._opened.execute("DELETE FROM parts WHERE model = ? AND source = ?", (model, source))

    def forget_hours_of(self, model: str, source: str) -> None:
        """Delete the histograms by hour of a source."""
        self._opened.execute("DELETE FROM hours WHERE model = ? AND source = ?", (model, source))

    def hour(self, key: HourKey) -> bytes | None:
        """Return the histogram of an hour, or None if there is none."""
        row = self._opened.execute(
            "SELECT data FROM hours WHERE model = ? AND source = ? AND version = ? AND hour = ?", key
        ).fetchone()
        return None if row is None else bytes(row[0])

    def hours(self, model: str, source: str, version: str, since: int, until: int) -> list[tuple[int, bytes]]:
        """Return the histograms from the hour ``since`` up to, but without, the hour ``until``, in order."""
        return self._opened.execute(
            "SELECT hour, data FROM hours WHERE model = ? AND source = ? AND version = ? AND hour >= ? AND hour < ? "
            "ORDER BY hour",
            (model, source, version, since, until),
        ).fetchall()

    def put_hours(self, hours: Iterable[tuple[HourKey, bytes]]) -> None:
        """Store histograms by hour."""
        self._opened.executemany(
            "INSERT OR REPLACE INTO hours VALUES (?, ?, ?, ?, ?)", [(*key, data) for key, data in hours]
        )

    def forget_hours(self, before: int) -> None:
        """Delete the histograms of older hours."""
        self._opened.execute("DELETE FROM hours WHERE hour < ?", (before,))

    def minutes(self) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield the model, the source, the minute and the counts of each minute that is kept."""
        yield from self._opened.execute("SELECT model, source, minute, data FROM minutes")

    def put_minutes(self, minutes: Iterable[tuple[str, str, int, bytes]]) -> None:
        """Store the counts of some minutes."""
        self._opened.executemany("INSERT OR REPLACE INTO minutes VALUES (?, ?, ?, ?)", list(minutes))

    def forget_minutes(self, before: int) -> None:
        """Delete the counts of older minutes."""
        self._opened.execute("DELETE FROM minutes WHERE minute < ?", (before,))

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable("the drift monitor is starting; retry later")
        return self._connection

    def _open(self) -> sqlite3.Connection | None:
        """Open the file, or return None if another process has it. A damaged file is renamed, and a new one is made."""
        for is_second in (False, True):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                _prepare(connection)
                return connection
            except sqlite3.DatabaseError as exc:
                connection.close()
                code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
                if code == sqlite3.SQLITE_BUSY:
                    return None
                if is_second or code not in _DAMAGED:
                    raise Unavailable(f"{FILE} cannot be opened: {exc}; check the disk of streams.state_dir") from exc
                # The rest of the service must start without its references. They can be learned or set again.
                self._set_aside(str(exc))
            except BaseException:
                connection.close()
                raise
        return None

    def _set_aside(self, reason: str) -> None:
        aside = self._path.with_suffix(".damaged")
        logger.error("%s cannot be used (%s); it is kept as %s, and drift starts without it", FILE, reason, aside.name)
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)


def _prepare(connection: sqlite3.Connection) -> None:
    # SQLite then needs no shared memory, so that the folder may be on NFS.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    # A killed process loses nothing; a power failure may lose the last seconds.
    connection.execute("PRAGMA synchronous = NORMAL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (problem := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise _Damaged(problem.splitlines()[-1])
    if version == 0:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")

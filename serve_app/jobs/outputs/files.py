"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from serve_app.disk import FULL, sync_folder
from serve_app.errors import NoSpace, ServeAppError, Unavailable
from serve_app.jobs.outputs.results import OutputFile

_PART_PREFIX, _PART_SUFFIX = ".sightline-", ".part"
_BUFFER_BYTES = 1 << 20


class _Hashing:
    """A binary file for writing that also hashes what is written. It cannot seek, so the hash is always right."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size_bytes = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        count = self._file.write(data)
        self.hash.update(data)
        self.size_bytes += count
        return count

    def tell(self) -> int:
        return self.size_bytes

    def flush(self) -> None:
        self._file.flush()

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> OutputFile:
    """Let ``write`` write a file, and put it in place once it is complete and on the disk. This blocks.

    Create missing folders. Raise NoSpace if the disk is full, and Unavailable if the file cannot be written.
    """
    with _as_refusals():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(_PART_SUFFIX, _PART_PREFIX, path.parent)
        try:
            with open(descriptor, "wb", buffering=_BUFFER_BYTES) as file:
                hashing = _Hashing(file)
                write(cast(BinaryIO, hashing))
                file.flush()
                os.fsync(descriptor)
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise
        sync_folder(path.parent)
    return OutputFile(path.name, hashing.size_bytes, hashing.hash.hexdigest())


def remove_parts(folder: Path) -> None:
    """Remove the incomplete files that a killed process has left in a folder. No other process may write there."""
    with _as_refusals():
        for part in folder.glob(f"{_PART_PREFIX}*{_PART_SUFFIX}"):
            part.unlink(missing_ok=True)


@contextmanager
def _as_refusals() -> Iterator[None]:
    try:
        yield
    except ServeAppError:
        raise
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        if exc.errno in FULL:
            raise NoSpace(f"an output cannot be written: {reason}; free space on the disk") from exc
        raise Unavailable(f"an output cannot be written: {reason}; check the folder's permissions") from exc

"""A lock that only one process on this machine, or on a shared file system, can hold."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """An ``flock`` on a file, which the system releases when the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Hold the lock until this process calls ``release`` or ends. Return False if another process holds it."""
        if self._descriptor is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let another process acquire the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

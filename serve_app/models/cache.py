"""The folder ``model.cache_dir``, which replicas and nodes may share. Locks keep them from repeating work."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serve_app.config import ModelArgs
from serve_app.errors import ModelError


def cache_folder(args: ModelArgs) -> Path:
    """Return ``model.cache_dir`` as a path without ``~``. Raise ModelError when the user has no home directory."""
    try:
        return args.cache_dir.expanduser()
    except RuntimeError as exc:
        raise ModelError(
            f"model.cache_dir: {str(exc).rstrip('.')}: set SERVE_APP_CACHE_DIR to an absolute path"
        ) from exc


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Hold the lock file at ``path`` and yield its descriptor. If another process holds it, call ``on_wait`` and wait.

    The kernel releases the lock when the process that holds the lock ends, even if the process is killed. Raise
    ModelError when the folder is not writable. The lock file may belong to other processes, so its content is kept,
    and a symbolic link in its place is refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as exc:
        if path.is_symlink():
            raise ModelError(f"model.cache_dir: {path} is a symbolic link instead of a lock file: delete it") from exc
        raise ModelError(
            f"model.cache_dir: {path.parent} is not writable ({exc.strerror}): "
            "set SERVE_APP_CACHE_DIR to another folder"
        ) from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock file at ``path``."""
    with suppress(OSError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

"""Name the files in /dev/shm that processes of one node share, and remove files whose owner has died."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serve_app.errors import SharedMemoryError

FOLDER = Path("/dev/shm")
PREFIX = "sightline-"
_SOCKET_SUFFIX = ".sock"
# Sockets and folders that are younger than this are kept, because their owner may not yet listen on the socket or hold
# the folder's lock.
_MIN_AGE_S = 1.0


def pool_path(folder: Path) -> Path:
    """Return a new, unique path for a frame pool. The pool's owner holds an ``flock`` on the file."""
    return folder / f"{PREFIX}{secrets.token_hex(8)}"


def socket_path(folder: Path, service: str) -> Path:
    """Return a new, unique path for a socket of a service. The owner listens on the socket."""
    return folder / f"{PREFIX}{service}-{secrets.token_hex(4)}{_SOCKET_SUFFIX}"


def sockets(folder: Path, service: str) -> list[Path]:
    """Return the paths of a service's sockets."""
    return list(folder.glob(f"{PREFIX}{service}-*{_SOCKET_SUFFIX}"))


@contextmanager
def run_folder(folder: Path = FOLDER) -> Iterator[Path]:
    """Create a temporary folder for sockets, with a short path. This process holds an ``flock`` on the folder.

    Raise SharedMemoryError when the folder cannot be created.
    """
    try:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    except OSError as exc:
        raise SharedMemoryError(f"{folder} is not writable ({exc.strerror}): mount a tmpfs there") from exc
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def sweep(folder: Path = FOLDER) -> int:
    """Remove files, sockets and folders whose owner has died. Return how many were removed."""
    paths = list(folder.glob(f"{PREFIX}*"))
    return sum(_sweep_socket(path) if path.suffix == _SOCKET_SUFFIX else _sweep_locked(path) for path in paths)


def sweep_all(folder: Path = FOLDER) -> None:
    """Call ``sweep`` when all present files are old enough for it, at most a second from now.

    A process that was killed just after its start leaves young files.
    """
    waits_s = [0.0]
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):  # removed by its owner
            waits_s.append(max(0.0, _MIN_AGE_S - _age_s(path)))
    time.sleep(min(max(waits_s), _MIN_AGE_S))  # a clock that was set back must not make us wait for long
    sweep(folder)


def _sweep_locked(path: Path) -> bool:
    try:
        is_folder = path.is_dir()
        if is_folder and not _is_old(path):
            return False
        fd = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False  # already removed, or owned by another user
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_folder:
            shutil.rmtree(path)
        else:
            # We unlink while we hold the lock. An owner that locks its new file after us sees that the file is gone.
            path.unlink(missing_ok=True)
        return True
    except OSError:
        return False  # locked by its living owner, or owned by another user
    finally:
        os.close(fd)


def _sweep_socket(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a running server that accepts no connections must not block us
        is_dead = probe.connect_ex(str(path)) == errno.ECONNREFUSED
    try:
        if is_dead and _is_old(path):
            path.unlink()
            return True
    except OSError:
        pass  # removed by another sweep, or owned by another user
    return False


def _is_old(path: Path) -> bool:
    return _age_s(path) > _MIN_AGE_S


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


if __name__ == "__main__":  # run after a cluster was stopped, to remove the files of killed processes
    sweep_all()

"""What lies in /dev/shm for the processes of one node, and the sweep of what dead ones left there."""

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
from contextlib import contextmanager
from pathlib import Path

from serve_app.errors import SharedMemoryError

FOLDER = Path("/dev/shm")
PREFIX = "sightline-"
_SOCKET_SUFFIX = ".sock"
_NEW_S = 1.0  # a socket that is younger may not be listened on yet, nor a folder be locked


def pool_path(folder: Path) -> Path:
    """A path for a frame pool that was never used before. Its owner holds an ``flock`` on the file."""
    return folder / f"{PREFIX}{secrets.token_hex(8)}"


def socket_path(folder: Path, service: str) -> Path:
    """A path for a socket of a service that was never used before. Its owner listens on it."""
    return folder / f"{PREFIX}{service}-{secrets.token_hex(4)}{_SOCKET_SUFFIX}"


def sockets(folder: Path, service: str) -> list[Path]:
    """The paths of a service's sockets."""
    return list(folder.glob(f"{PREFIX}{service}-*{_SOCKET_SUFFIX}"))


@contextmanager
def run_folder(folder: Path = FOLDER) -> Iterator[Path]:
    """A folder of this run's own, whose path is short, for sockets. Its owner holds an ``flock`` on it.

    Raises SharedMemoryError where none can be made.
    """
    try:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    except OSError as exc:
        raise SharedMemoryError(f"{folder} cannot be written ({exc.strerror}): mount a tmpfs there") from exc
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def sweep(folder: Path = FOLDER) -> int:
    """Remove what dead owners left; returns how many files and folders."""
    paths = list(folder.glob(f"{PREFIX}*"))
    return sum(_sweep_socket(path) if path.suffix == _SOCKET_SUFFIX else _sweep_locked(path) for path in paths)


def _sweep_locked(path: Path) -> bool:
    try:
        is_folder = path.is_dir()
        if is_folder and not _is_old(path):
            return False
        fd = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False  # gone already, or another user's
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_folder:
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # under the lock: its owner-to-be may not have it yet
        return True
    except OSError:
        return False  # its owner lives, or it is another user's
    finally:
        os.close(fd)


def _sweep_socket(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one that lives and does not accept must not hold us up
        is_dead = probe.connect_ex(str(path)) == errno.ECONNREFUSED
    try:
        if is_dead and _is_old(path):
            path.unlink()
            return True
    except OSError:
        pass  # another sweep was faster, or it is another user's
    return False


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _NEW_S


if __name__ == "__main__":  # after a cluster was stopped: what killed processes left behind
    sweep()

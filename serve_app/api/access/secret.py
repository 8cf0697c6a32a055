"""The secret that signs sessions. All Ingress replicas read it from one file."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from serve_app.disk import sync_folder
from serve_app.errors import Unavailable

_NAME = "session-secret"
_BYTES = 32


def load_secret(folder: Path) -> bytes:
    """Return the secret in ``folder``. If there is none yet, make one that only the service's user can read.

    When several replicas make a secret at the same time, one of them is kept, and all replicas return it. This call
    blocks. Raise Unavailable if the file cannot be read or written, or if other users can read it.
    """
    path = folder / _NAME
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except OSError as exc:
        raise Unavailable(
            f"streams.state_dir: its file {_NAME} cannot be used: {exc.strerror}; make the folder writable for the "
            "service"
        ) from exc


def _make(path: Path) -> None:
    """Write a new secret to a temporary file, and link the whole file to ``path`` unless there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{_NAME}-{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # another replica was faster
            os.link(part, path)
    finally:
        part.unlink()
    sync_folder(path.parent)


def _read(path: Path) -> bytes:
    with open(path, "rb", opener=_open_no_link) as file:
        status = os.fstat(file.fileno())
        data = file.read(_BYTES + 1)
    if not stat.S_ISREG(status.st_mode) or status.st_mode & stat.S_IRWXO or len(data) != _BYTES:
        raise Unavailable(
            f"streams.state_dir: its file {_NAME} is damaged, or other users may use it; delete the file, and restart "
            "the service to make a new one"
        )
    return data


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)

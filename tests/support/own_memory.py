"""Give a test process its own /dev/shm, so that it does not see the files of clusters that other processes run."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable

from serve_app.ipc import dev_shm

# See mount(2) and unshare(2).
_CLONE_NEWNS = 0x20000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000


def can_be_taken() -> bool:
    """Return whether the system allows a process to have its own /dev/shm. On most systems, only root may do this."""
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def take() -> None:
    """Mount an empty /dev/shm that only the calling thread, its later threads and its child processes see.

    Raise OSError if the system does not allow this.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    folder = str(dev_shm.FOLDER).encode()
    # Mounts must not appear in the namespaces of other processes.
    calls: list[Callable[[], int]] = [
        lambda: libc.unshare(_CLONE_NEWNS),
        lambda: libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None),
        lambda: libc.mount(b"tmpfs", folder, b"tmpfs", 0, None),
    ]
    for call in calls:
        if call() != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(dev_shm.FOLDER))

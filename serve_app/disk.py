"""The disk: errors that mean that it is full, and folders whose changes survive a power failure.

In ``jobs/``, ``outputs.files``, ``sources.uploads`` and ``store.database`` turn a full disk into NoSpace. ``Board``,
``Dispatch``, ``Finishing``, ``Listing`` and ``running.tally`` try again later. A request of a client is refused.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk. Otherwise, a power failure could undo the renaming of a file in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

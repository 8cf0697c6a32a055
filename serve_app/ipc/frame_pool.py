"""The frame pool: model inputs in shared memory, so that frames never travel through Ray.

The owner leases a slot, writes a frame, sends the slot's name (``SlotRef``), and has the slot back when the answer
is there. A reader on the same node maps the owner's file and reads the frame in place. A flag beside the frame, which
the reader sets while the frame is in its engine, outlives the reader: it tells which frames may have killed it.

Python's ``multiprocessing.shared_memory`` would not do: its resource tracker unlinks a file when *any* process that
attached to it dies, and it only truncates, so that a full tmpfs kills by SIGBUS long after the start. Here the file
is allocated in full at once, carries a random name that is never used again, and its owner holds an ``flock`` on it;
a file whose lock can be taken has lost its owner, and whoever creates the next pool removes it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import Overloaded, SharedMemoryError, SlotElsewhere
from serve_app.ipc.dev_shm import FOLDER, PREFIX, pool_path, sweep
from serve_app.types import InputShape, Pixels, SlotRef

_PAGE = mmap.PAGESIZE

InEngineFlag = NDArray[np.uint8]  # (1,), writable; 1 while the frame is in an engine


@dataclass(frozen=True)
class Slot:
    """Memory for one model input. Its owner gives it back once."""

    ref: SlotRef
    pixels: Pixels  # the shape of ``ref.input_shape``, writable
    _in_engine: InEngineFlag
    _free: deque[Slot]

    @property
    def was_in_engine(self) -> bool:
        """The frame is in a reader's engine, or was when the reader died."""
        return bool(self._in_engine[0])

    def clear_flag(self) -> None:
        """Say that no engine has the frame. To be called before the frame is sent."""
        self._in_engine[0] = 0

    def give_back(self) -> None:
        """Free the slot: nothing of ours reads or writes it any more."""
        self._free.append(self)


class FramePool:
    """Slots for model inputs of one shape, owned by this process.

    Raises SharedMemoryError if shared memory has no room for them.
    """

    def __init__(self, slots: int, shape: InputShape, folder: Path = FOLDER) -> None:
        sweep(folder)
        stride = _slot_bytes(shape)
        path, fd = _create_locked(folder)
        self.name = path.name
        # Runs when the pool is collected, when close() is called and when the interpreter exits, whichever is first.
        self._close = weakref.finalize(self, _remove, path, fd)
        try:
            os.posix_fallocate(fd, 0, pool_bytes(slots, shape))
        except OSError as exc:
            self._close()
            if exc.errno != errno.ENOSPC:
                raise
            raise SharedMemoryError(
                f"the frame pool needs {slots * stride / 2**20:.0f} MiB of shared memory and does not get it; "
                "use fewer slots (preprocessor.slots) or allow more (docker run --shm-size=1g)"
            ) from exc
        memory = np.frombuffer(mmap.mmap(fd, slots * stride), np.uint8)
        self._free: deque[Slot] = deque()
        for offset in range(0, slots * stride, stride):
            ref = SlotRef(self.name, offset, shape)
            self._free.append(Slot(ref, *_frame_and_flag(memory, ref), self._free))
        self.slots = slots
        self.shape = shape

    @property
    def leased(self) -> int:
        """Slots in use now."""
        return self.slots - len(self._free)

    def take(self) -> Slot:
        """A free slot. Raises Overloaded: the owner must not hold more than it asked for."""
        try:
            return self._free.pop()  # the last one given back: it is warm in the cache
        except IndexError:
            raise Overloaded(
                f"preprocessor.slots: all {self.slots} frame slots are in use; retry later or raise it",
                limit="preprocessor.slots",
            ) from None

    @contextmanager
    def lease(self) -> Iterator[Slot]:
        """A slot for the length of a ``with`` block."""
        slot = self.take()
        try:
            yield slot
        finally:
            slot.give_back()

    def close(self) -> None:
        """Remove the file. Readers keep what they have mapped until they notice."""
        self._close()


class SlotReader:
    """Other processes' slots, mapped once a pool and read in place."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._pools: dict[str, tuple[int, np.ndarray]] = {}  # name -> (descriptor, memory)

    def view(self, ref: SlotRef) -> tuple[Pixels, InEngineFlag]:
        """Return the frame in the slot, not copied, and its flag. Raises SlotElsewhere."""
        if ref.pool not in self._pools:
            self._drop_unlinked()  # a new pool appears when an owner was replaced
            self._pools[ref.pool] = self._map(ref.pool)
        return _frame_and_flag(self._pools[ref.pool][1], ref)

    def close(self) -> None:
        """Drop every mapping."""
        for name in list(self._pools):
            os.close(self._pools.pop(name)[0])

    def _map(self, name: str) -> tuple[int, np.ndarray]:
        if not name.startswith(PREFIX) or "/" in name:
            raise SlotElsewhere("not a frame pool's name")
        try:
            # Mapped for writing though only flags are written: OpenVINO takes no read-only array without a copy.
            fd = os.open(self._folder / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise SlotElsewhere("the frame pool is on another node") from None
        try:
            return fd, np.frombuffer(mmap.mmap(fd, 0), np.uint8)
        except BaseException:
            os.close(fd)
            raise

    def _drop_unlinked(self) -> None:
        for name, (fd, _) in list(self._pools.items()):
            if os.fstat(fd).st_nlink == 0:
                os.close(fd)
                del self._pools[name]  # the memory itself goes with the last view of it


def pool_bytes(slots: int, shape: InputShape) -> int:
    """Return the bytes of shared memory that a pool takes."""
    return slots * _slot_bytes(shape)


def _create_locked(folder: Path) -> tuple[Path, int]:
    while True:
        path = pool_path(folder)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return path, fd
        except BlockingIOError:
            pass  # between our open and our lock a sweep took the file for an orphan: make another
        os.close(fd)
        path.unlink(missing_ok=True)


def _remove(path: Path, fd: int) -> None:
    path.unlink(missing_ok=True)
    os.close(fd)  # frees the lock


def _slot_bytes(shape: InputShape) -> int:
    return -(-(shape.nbytes + 1) // _PAGE) * _PAGE


def _frame_and_flag(memory: np.ndarray, ref: SlotRef) -> tuple[Pixels, InEngineFlag]:
    end = ref.offset + ref.input_shape.nbytes
    return memory[ref.offset : end].reshape(ref.input_shape.array), memory[end : end + 1]

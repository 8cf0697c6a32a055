"""The frame pool: model inputs in shared memory, so that frames never travel through Ray.

The owner leases a slot, writes a frame, sends the slot's name (``SlotRef``), and releases the slot when the answer has
arrived. A slot has room for the largest model input, and a smaller input uses only a part of it. A reader on the same
node maps the owner's file and reads the frame in place. While the frame is in the reader's engine, a flag in the slot
is set. The flag survives the reader's death, and shows which frames may have caused the death.

We do not use Python's ``multiprocessing.shared_memory``. Its resource tracker unlinks a file when *any* process that
attached to it dies. The module also creates files without allocating their memory, so a full tmpfs kills a process
with SIGBUS much later. Our file is fully allocated when it is created, and has a random name that is never reused. Its
owner holds an ``flock`` on it. A file without a lock has lost its owner, and is removed when the next pool is created.
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
# A slot begins with its flag. So a reader that clears the flag late never writes into the slot's next frame, which may
# have another shape. The frame begins after as many bytes as a line of the CPU's cache has, because some engines copy
# frames that are not aligned.
_FRAME_OFFSET = 64

InEngineFlag = NDArray[np.uint8]  # shape (1,), writable; its value is 1 while the frame is in an engine


@dataclass(frozen=True)
class Slot:
    """The shared memory for one model input. The owner must release a leased slot exactly once."""

    pool: str  # the name of the pool's file
    offset: int  # bytes from the start of the file
    largest: InputShape  # a frame of this shape fits into the slot
    _memory: NDArray[np.uint8]  # the pool's memory
    _free: deque[Slot]

    def ref(self, shape: InputShape) -> SlotRef:
        """Return the location of a frame of this shape in the slot. Raise ValueError if the frame is too large."""
        if shape.nbytes > self.largest.nbytes:  # the frame would reach into the next slot
            raise ValueError(f"a frame of the shape {shape} does not fit into a slot for {self.largest}")
        return SlotRef(self.pool, self.offset, shape)

    def frame(self, shape: InputShape) -> Pixels:
        """Return the slot's memory as a writable array for a frame of this shape, which must fit into the slot."""
        return _frame_and_flag(self._memory, self.ref(shape))[0]

    @property
    def was_in_engine(self) -> bool:
        """Whether the frame is in a reader's engine, or was in it when the reader died."""
        return bool(self._memory[self.offset])

    def clear_flag(self) -> None:
        """Mark the frame as being in no engine. Call this before the frame is sent."""
        self._memory[self.offset] = 0

    def release(self) -> None:
        """Return the slot to its pool. Afterwards, nothing in this process may read or write it."""
        self._free.append(self)


class FramePool:
    """Slots for model inputs of up to the size of ``shape``, owned by this process.

    Raise SharedMemoryError when there is too little shared memory for them.
    """

    def __init__(self, slots: int, shape: InputShape, folder: Path = FOLDER) -> None:
        sweep(folder)
        stride = _slot_bytes(shape)
        path, fd = _create_locked(folder)
        self.name = path.name
        # The file is removed once: by close(), by garbage collection of the pool or at the exit of the interpreter.
        self._close = weakref.finalize(self, _remove, path, fd)
        try:
            os.posix_fallocate(fd, 0, pool_bytes(slots, shape))
        except OSError as exc:
            self._close()
            if exc.errno != errno.ENOSPC:
                raise
            raise SharedMemoryError(
                f"the frame pool needs {slots * stride / 2**20:.0f} MiB of shared memory, which is not available: use "
                "fewer preprocessor.slots, or allow more shared memory (docker run --shm-size=1g)"
            ) from exc
        memory = np.frombuffer(mmap.mmap(fd, slots * stride), np.uint8)
        self._free: deque[Slot] = deque()
        for offset in range(0, slots * stride, stride):
            self._free.append(Slot(self.name, offset, shape, memory, self._free))
        self.slots = slots
        self.shape = shape

    @property
    def leased(self) -> int:
        """The number of slots in use."""
        return self.slots - len(self._free)

    def take(self) -> Slot:
        """Lease a free slot. Raise Overloaded when all slots are in use."""
        try:
            return self._free.pop()  # the slot released last, because it is still in the CPU's cache
        except IndexError:
            raise Overloaded(
                f"preprocessor.slots: all {self.slots} frame slots are in use; retry later or raise the limit",
                limit="preprocessor.slots",
            ) from None

    @contextmanager
    def lease(self) -> Iterator[Slot]:
        """Lease a slot for the duration of a ``with`` block."""
        slot = self.take()
        try:
            yield slot
        finally:
            slot.release()

    def close(self) -> None:
        """Remove the pool's file. A reader keeps its mapping until it maps a new pool."""
        self._close()


class SlotReader:
    """A reader of slots that other processes own. It maps each pool once, and reads frames in place."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._pools: dict[str, tuple[int, np.ndarray]] = {}  # name -> (descriptor, memory)

    def view(self, ref: SlotRef) -> tuple[Pixels, InEngineFlag]:
        """Return the frame in the slot (not a copy) and the frame's flag.

        Raise SlotElsewhere for slots of other nodes.
        """
        if ref.pool not in self._pools:
            self._drop_unlinked()  # a new pool often replaces the pool of an owner that has died
            self._pools[ref.pool] = self._map(ref.pool)
        return _frame_and_flag(self._pools[ref.pool][1], ref)

    def close(self) -> None:
        """Unmap all pools that are mapped."""
        for name in list(self._pools):
            os.close(self._pools.pop(name)[0])

    def _map(self, name: str) -> tuple[int, np.ndarray]:
        if not name.startswith(PREFIX) or "/" in name:
            raise SlotElsewhere("not a frame pool's name")
        try:
            # We write only the flags, but the frames must be writable, too, because OpenVINO would copy read-only
            # frames.
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
                del self._pools[name]  # the memory itself is freed with the last view of it


def pool_bytes(slots: int, shape: InputShape) -> int:
    """Return how many bytes of shared memory a pool takes."""
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
            pass  # a sweep locked the new file before we did, so we create another file
        os.close(fd)
        path.unlink(missing_ok=True)


def _remove(path: Path, fd: int) -> None:
    path.unlink(missing_ok=True)
    os.close(fd)  # releases the lock


def _slot_bytes(shape: InputShape) -> int:
    return -(-(_FRAME_OFFSET + shape.nbytes) // _PAGE) * _PAGE


def _frame_and_flag(memory: np.ndarray, ref: SlotRef) -> tuple[Pixels, InEngineFlag]:
    begin = ref.offset + _FRAME_OFFSET
    frame = memory[begin : begin + ref.input_shape.nbytes].reshape(ref.input_shape.array)
    return frame, memory[ref.offset : ref.offset + 1]

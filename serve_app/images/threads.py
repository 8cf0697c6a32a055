"""The threads in which a replica decodes images."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from serve_app.config import cores

logger = logging.getLogger(__name__)

_IDLE_AFTER_S = 5.0  # freed memory is returned to the system if no image was decoded for this time
T = TypeVar("T")


class DecodeThreads:
    """A pool of threads for work that writes to memory which the caller frees afterwards, such as a slot.

    Each thread holds one full-size image, so the number of threads limits the memory for images.
    """

    def __init__(self, count: int, *, time_limit_s: float = 20.0, niceness: int = 0) -> None:
        """Create the pool. A ``count`` of 0 means one thread for each four cores.

        ``time_limit_s`` is the time after which a thread counts as hung; decoding the largest allowed image takes 2 s.
        ``niceness`` lowers the threads' priority, so that other work on this machine is not delayed.
        """
        self._pool = ThreadPoolExecutor(
            count or max(1, cores() // 4), "decode", initializer=_lower_priority, initargs=(niceness,)
        )
        self._time_limit_s = time_limit_s
        self._started_at_s: dict[int, float] = {}  # by thread id
        self._idle_since_s = math.inf  # when the last work ended; infinity if there is no freed memory to return

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread and return its result.

        If the call is cancelled after ``work`` has started, wait until ``work`` ends, because ``work`` may still write
        to the slot.
        """
        job = self._pool.submit(self._timed, work)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            while not job.cancel() and not job.done():
                try:
                    await asyncio.wait([done])
                except asyncio.CancelledError:
                    pass  # a second cancellation cannot stop the thread either
            raise
        finally:
            # If ``work`` has failed, these futures hold an exception that refers to this frame, and so to the image.
            # Without this cycle, the image's memory is freed at once and not at the next garbage collection.
            del job, done

    async def check(self) -> None:
        """Kill this process if a thread hangs, and give freed memory back to the system when all threads are idle.

        Call this every second. A hung decoder would occupy a slot and a thread forever.
        """
        longest_s = time.monotonic() - min(self._started_at_s.values(), default=time.monotonic())
        if longest_s > self._time_limit_s:
            logger.critical("a decoder hangs: it has decoded one image for %.0f s; killing this replica", longest_s)
            os.kill(os.getpid(), signal.SIGKILL)
        if not self._started_at_s and time.monotonic() - self._idle_since_s > _IDLE_AFTER_S:
            self._idle_since_s = math.inf
            await asyncio.to_thread(_return_freed_memory)

    def close(self) -> None:
        """Accept no more work. Threads end when their current work ends."""
        self._pool.shutdown(wait=False)

    def _timed(self, work: Callable[[], T]) -> T:
        thread = threading.get_ident()
        self._started_at_s[thread] = time.monotonic()
        try:
            return work()
        finally:
            del self._started_at_s[thread]
            self._idle_since_s = time.monotonic()


def _lower_priority(niceness: int) -> None:
    thread = threading.get_native_id()  # on Linux, a thread has a priority of its own
    if niceness > os.getpriority(os.PRIO_PROCESS, thread):  # only root may raise a priority
        os.setpriority(os.PRIO_PROCESS, thread, niceness)


def _return_freed_memory() -> None:
    """Return the heap's free memory to the system: see malloc_trim(3).

    Without this call, hostile images left up to 180 MiB of free memory in the heap.
    """
    with suppress(AttributeError):  # only glibc has this function
        ctypes.CDLL(None).malloc_trim(0)

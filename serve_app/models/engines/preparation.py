"""The preparation of shapes of inputs while a model is served, such as their compilation."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType


class Preparation:
    """A lock for preparing a shape, which says how long a thread has been holding it.

    Only one thread prepares at a time, and other threads wait for it. A preparation takes far longer than a batch, so
    its time must not count as the time of a batch.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._began_at_s: float | None = None  # None while no thread prepares a shape
        self._ended_at_s = -math.inf

    def __enter__(self) -> None:
        self._lock.acquire()
        self._began_at_s = self._clock_s()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended_at_s, self._began_at_s = self._clock_s(), None
        self._lock.release()

    @property
    def running_s(self) -> float:
        """The time since the running preparation began, or 0 if none is running."""
        began_at_s = self._began_at_s
        return 0.0 if began_at_s is None else self._clock_s() - began_at_s

    @property
    def ended_s_ago(self) -> float:
        """The time since the last preparation ended, 0 while one is running, and infinity if there was none."""
        return self._clock_s() - self._ended_at_s if self._began_at_s is None else 0.0

"""Retry calls whose replica is gone. This module uses plain asyncio and imports neither Ray nor sockets."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.errors import DeadlineExceeded, ReplicaDied, ReplicaGone, Unavailable

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
_DEATHS_PER_CALL = 4  # a full budget allows this many retries for each call that may be in flight
_REFILL_PER_ANSWER = 0.2  # how many retries each answer adds to the budget

T = TypeVar("T")


class Retries:
    """Retries the calls of one process until their deadline, so that callers never see a transient replica death.

    Each retry after the death of a replica uses up part of a budget, and each answer refills part of it. When replicas
    die faster than they answer, calls fail instead of adding load, as in gRPC's retry throttling (proposal A6).
    """

    def __init__(self, in_flight: int) -> None:
        """Fill the budget. ``in_flight``: how many calls may be in flight, and therefore may fail, at the same time."""
        self._capacity = _DEATHS_PER_CALL * in_flight
        self._budget = float(self._capacity)

    async def run(self, attempt: Callable[[float], Awaitable[T]], time_left_s: float) -> T:
        """Call ``attempt`` with the number of seconds left, and return its result. Retry the call on ReplicaGone.

        Raise DeadlineExceeded when the time is up, Unavailable when the budget is used up, and any other error of
        ``attempt`` at once.
        """
        expires_at_s = time.monotonic() + time_left_s
        pause_s = _FIRST_PAUSE_S
        while True:
            left_s = expires_at_s - time.monotonic()
            try:
                async with asyncio.timeout(left_s) as limit:
                    result = await attempt(left_s)
            except ReplicaGone as exc:
                if isinstance(exc, ReplicaDied):
                    self._spend(exc)
                if time.monotonic() + pause_s >= expires_at_s:
                    raise DeadlineExceeded("no replica became available in time; try again later") from exc
            except TimeoutError as exc:
                if not limit.expired():
                    raise
                raise DeadlineExceeded(f"no answer within {time_left_s:.3g} s") from exc
            else:
                self._budget = min(self._budget + _REFILL_PER_ANSWER, self._capacity)
                return result
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # jitter spreads the retries of many calls
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _spend(self, death: ReplicaDied) -> None:
        if self._budget < 1:
            raise Unavailable("replicas die faster than they answer; try again later") from death
        self._budget -= 1

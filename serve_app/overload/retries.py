"""Calls that are made again when their replica is gone. Plain asyncio: knows neither Ray nor sockets."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.errors import DeadlineExceeded, ReplicaDied, ReplicaGone, Unavailable

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
_DEATHS = 4  # of all calls under way, that may follow each other with no answer between them
_REFILL = 0.2  # of a call, for each answer

T = TypeVar("T")


class Retries:
    """Of the calls of one process. A call is made again until its time is up: nobody hears of a death that passes.

    Work that died with its replica is begun again at the expense of a budget, which answers fill up: when replicas die
    faster than they answer, calls fail, and load does not grow (as gRPC's retry throttling does it, proposal A6).
    """

    def __init__(self, in_flight: int) -> None:
        """``in_flight``: calls that may be under way, and die, at once."""
        self._capacity = _DEATHS * in_flight
        self._budget = float(self._capacity)

    async def run(self, attempt: Callable[[float], Awaitable[T]], time_left_s: float) -> T:
        """What ``attempt`` returns, which is told how many seconds are left.

        Raises what it raises but for ReplicaGone, DeadlineExceeded when the time is up, Unavailable when the budget is.
        """
        expires_s = time.monotonic() + time_left_s
        pause_s = _FIRST_PAUSE_S
        while True:
            left_s = expires_s - time.monotonic()
            try:
                async with asyncio.timeout(left_s) as limit:
                    result = await attempt(left_s)
            except ReplicaGone as exc:
                if isinstance(exc, ReplicaDied):
                    self._spend(exc)
                if time.monotonic() + pause_s >= expires_s:
                    raise DeadlineExceeded("no replica came back in time") from exc
            except TimeoutError as exc:
                if not limit.expired():
                    raise
                raise DeadlineExceeded(f"no answer within {time_left_s:.3g} s") from exc
            else:
                self._budget = min(self._budget + _REFILL, self._capacity)
                return result
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # so that they do not come back all at once
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _spend(self, death: ReplicaDied) -> None:
        if self._budget < 1:
            raise Unavailable("replicas die faster than they answer; try again later") from death
        self._budget -= 1

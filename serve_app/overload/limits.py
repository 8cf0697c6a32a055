"""Bounds on what is in progress at once. Plain: this module knows neither HTTP nor Ray."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_app.errors import Overloaded

_LONGEST_STAY_S = 2.0  # of who has to wait for a seat
_COUNTED_FOR_S = 0.5
_BRIEF_S = 0.1  # that a seat may be free while all count as taken


class Places:
    """So many at once, and no more."""

    def __init__(self, count: int, refusal: str) -> None:
        self._free = count
        self._refusal = refusal

    @contextmanager
    def one(self) -> Iterator[None]:
        """One of them is taken, within the block. Raises Overloaded."""
        if not self._free:
            raise Overloaded(self._refusal)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class WaitingRoom:
    """Who is being served, ``seats`` at once, and who waits for a seat: as many as get one soon.

    How soon is known once the seats were taken; until then everybody may. Beyond a wait of some seconds a client had
    better ask elsewhere, and of a service too slow for its queue nobody would be answered in time. Where several
    tenants come, none is refused for the others' sake: each may have its share of the places.
    """

    def __init__(self, seats: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._seats = seats
        self._clock_s = clock_s
        self._present: Counter[str] = Counter()  # by tenant
        self._per_s = 0.0  # who leave, while all seats are taken; 0: not known
        self._full_at_s = -math.inf  # when all seats were last seen taken
        self._since_s = 0.0  # since when they are, but for moments, and counted since then:
        self._left = 0

    @contextmanager
    def enter(self, tenant: str) -> Iterator[None]:
        """One more, for the length of a block. Raises Overloaded."""
        present = self._present.total()
        places = max(self._seats, _LONGEST_STAY_S * self._per_s) if self._per_s else math.inf
        tenants = len(self._present) + (tenant not in self._present)
        if present >= places and self._present[tenant] >= places / tenants:
            raise Overloaded("the service is at its limit")
        if present + 1 >= self._seats:
            now_s = self._clock_s()
            if now_s - self._full_at_s > _BRIEF_S:
                self._since_s, self._left = now_s, 0
            self._full_at_s = now_s
        self._present[tenant] += 1
        try:
            yield
        finally:
            self._leave(tenant)

    def _leave(self, tenant: str) -> None:
        self._left += 1
        if self._present.total() >= self._seats:
            self._full_at_s = self._clock_s()
            took_s = self._full_at_s - self._since_s
            if took_s >= _COUNTED_FOR_S:
                newest = self._left / took_s
                self._per_s = (self._per_s + newest) / 2 if self._per_s else newest
                self._since_s, self._left = self._full_at_s, 0
        self._present[tenant] -= 1
        if not self._present[tenant]:
            del self._present[tenant]

"""Refusing early what would be refused anyway. Plain: knows neither HTTP nor Ray."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_app.errors import Overloaded

_HALF_LIFE_S = 0.5  # of what was seen
_LONGEST_STAY_S = 2.0  # of who has to wait for a seat
_COUNTED_FOR_S = 0.5
_BRIEF_S = 0.1  # that a seat may be free while all count as taken
_SPARE = 1.5  # times as much is let through as was accepted: so it soon shows that there is room again


class Throttle:
    """Before a full service, so that a refusal costs next to nothing: adaptive throttling.

    The chance of a refusal is ``(requests - spare * accepted) / (requests + 1)`` of the last seconds (Beyer and others,
    "Site Reliability Engineering", O'Reilly 2016, chapter 21). A request counts when its outcome is known.
    """

    def __init__(
        self, clock_s: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock_s = clock_s
        self._chance = chance
        self._seen_at_s = clock_s()
        self._requests = 0.0
        self._accepted = 0.0

    def admit(self) -> None:
        """Raises Overloaded."""
        self._fade()
        if self._chance() < (self._requests - _SPARE * self._accepted) / (self._requests + 1):
            self._requests += 1
            raise Overloaded("the service is at its limit")

    def observe(self, *, refused: bool) -> None:
        """What became of a request that was admitted: whether it was refused for want of room."""
        self._fade()
        self._requests += 1
        self._accepted += not refused

    def _fade(self) -> None:
        now_s = self._clock_s()
        kept = 0.5 ** ((now_s - self._seen_at_s) / _HALF_LIFE_S)
        self._requests, self._accepted, self._seen_at_s = self._requests * kept, self._accepted * kept, now_s


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

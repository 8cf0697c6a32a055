"""Limits of what is in flight at once. Plain: this module knows neither HTTP nor Ray."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_app.errors import Limit, Overloaded

_MAX_WAIT_S = 2.0  # for a slot
_MEASURED_OVER_S = 0.5
_BRIEF_S = 0.1  # for which a slot may be free while all of them count as taken


class ConcurrencyLimit:
    """Lets so many requests be in flight at once, and refuses the next one."""

    def __init__(self, count: int, limit: Limit, refusal: str) -> None:
        """``limit`` names it; ``refusal`` says what is in flight and what to do."""
        self._free = count
        self._limit = limit
        self._refusal = f"{limit}: {refusal}"

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one more for the length of a block. Raises Overloaded."""
        if not self._free:
            raise Overloaded(self._refusal, limit=self._limit)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class WaitingRoom:
    """Admits the requests that use one of ``slots``, and those that will get one soon.

    How soon is known after all slots were in use for a while; until then every request is admitted. A client that would
    wait for seconds had better retry elsewhere, and a queue longer than the service can answer in time would answer
    nobody. No tenant is refused because of another one: each may have its share.
    """

    def __init__(self, slots: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._clock_s = clock_s
        self._in_flight: Counter[str] = Counter()  # by tenant
        self._per_s = 0.0  # requests that end, while all slots are in use; 0: not known
        self._full_at_s = -math.inf  # when all slots were last seen in use
        self._since_s = 0.0  # since when they are, but for moments, and how many requests ended since then:
        self._ended = 0

    @contextmanager
    def enter(self, tenant: str) -> Iterator[None]:
        """Count one more request for the length of a block. Raises Overloaded."""
        in_flight = self._in_flight.total()
        admitted = max(self._slots, _MAX_WAIT_S * self._per_s) if self._per_s else math.inf
        tenants = len(self._in_flight) + (tenant not in self._in_flight)
        if in_flight >= admitted and self._in_flight[tenant] >= admitted / tenants:
            raise Overloaded(
                f"preprocessor.slots: {in_flight} pictures are in flight for {self._slots} slots, more than end within "
                f"{_MAX_WAIT_S:g} s; retry later or add Detector replicas",
                limit="preprocessor.slots",
            )
        if in_flight + 1 >= self._slots:
            now_s = self._clock_s()
            if now_s - self._full_at_s > _BRIEF_S:
                self._since_s, self._ended = now_s, 0
            self._full_at_s = now_s
        self._in_flight[tenant] += 1
        try:
            yield
        finally:
            self._leave(tenant)

    def _leave(self, tenant: str) -> None:
        self._ended += 1
        if self._in_flight.total() >= self._slots:
            self._full_at_s = self._clock_s()
            took_s = self._full_at_s - self._since_s
            if took_s >= _MEASURED_OVER_S:
                newest = self._ended / took_s
                self._per_s = (self._per_s + newest) / 2 if self._per_s else newest
                self._since_s, self._ended = self._full_at_s, 0
        self._in_flight[tenant] -= 1
        if not self._in_flight[tenant]:
            del self._in_flight[tenant]

"""Limits on the number of requests in flight. This module imports neither HTTP libraries nor Ray."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_app.errors import Limit, Overloaded

_MAX_WAIT_S = 2.0  # the limit on the estimated wait for a slot
_MEASURING_S = 0.5  # throughput is measured over at least this time
_MAX_GAP_S = 0.1  # a slot that is free for at most this time still counts as in use


class ConcurrencyLimit:
    """Limit on the number of requests in flight. Further requests are refused."""

    def __init__(self, count: int, limit: Limit, refusal: str) -> None:
        """Set the limit to ``count``.

        ``limit``: the name of the setting. ``refusal``: the error message, which says what is in flight and what to do.
        """
        self._free = count
        self._limit = limit
        self._refusal = f"{limit}: {refusal}"

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one more request for the duration of a ``with`` block. Raise Overloaded when the limit is reached."""
        if not self._free:
            raise Overloaded(self._refusal, limit=self._limit)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class AdmissionLimit:
    """Limit that admits a request only when a slot is free, or probably becomes free within 2 s.

    The wait is estimated from the throughput, which is known only after all slots were in use for a while. Until then,
    every request is admitted. A request that would wait for more than 2 s is refused, so that its client can retry
    elsewhere. It helps nobody to queue requests that the service cannot answer in time. A tenant with less than its
    equal share of the requests in flight is always admitted.
    """

    def __init__(self, slots: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._clock_s = clock_s
        self._in_flight: Counter[str] = Counter()  # by tenant
        self._completed_per_s = 0.0  # throughput while all slots are in use; 0 until it has been measured
        self._last_full_at_s = -math.inf  # when all slots were last in use
        self._full_since_at_s = 0.0  # start of the time in which all slots are in use, apart from short gaps
        self._ended = 0  # requests completed since ``_full_since_at_s``

    @contextmanager
    def enter(self, tenant: str) -> Iterator[None]:
        """Count one more request for the duration of a ``with`` block.

        Raise Overloaded when the request would wait too long.
        """
        in_flight = self._in_flight.total()
        admitted = max(self._slots, _MAX_WAIT_S * self._completed_per_s) if self._completed_per_s else math.inf
        tenants = len(self._in_flight) + (tenant not in self._in_flight)
        if in_flight >= admitted and self._in_flight[tenant] >= admitted / tenants:
            raise Overloaded(
                f"preprocessor.slots: {in_flight} images are in flight for {self._slots} slots, more than can be "
                f"answered within {_MAX_WAIT_S:g} s; retry later or add Detector replicas",
                limit="preprocessor.slots",
            )
        if in_flight + 1 >= self._slots:
            now_s = self._clock_s()
            if now_s - self._last_full_at_s > _MAX_GAP_S:
                self._full_since_at_s, self._ended = now_s, 0
            self._last_full_at_s = now_s
        self._in_flight[tenant] += 1
        try:
            yield
        finally:
            self._leave(tenant)

    def _leave(self, tenant: str) -> None:
        self._ended += 1
        if self._in_flight.total() >= self._slots:
            self._last_full_at_s = self._clock_s()
            took_s = self._last_full_at_s - self._full_since_at_s
            if took_s >= _MEASURING_S:
                newest = self._ended / took_s
                self._completed_per_s = (self._completed_per_s + newest) / 2 if self._completed_per_s else newest
                self._full_since_at_s, self._ended = self._last_full_at_s, 0
        self._in_flight[tenant] -= 1
        if not self._in_flight[tenant]:
            del self._in_flight[tenant]

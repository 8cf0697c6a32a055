"""Refuse early what would be refused anyway. Plain: this module knows neither HTTP nor Ray."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from serve_app.errors import Limit, Overloaded

_HALF_LIFE_S = 0.5  # of an observation
_SPARE = 1.5  # times as many requests are admitted as were accepted, so that a recovery is noticed soon


class Throttle:
    """Refuses requests in front of a full service, so that a refusal costs next to nothing: adaptive throttling.

    The chance of a refusal is ``(requests - spare * accepted) / (requests + 1)`` of the last seconds (Beyer and others,
    "Site Reliability Engineering", O'Reilly 2016, chapter 21). A request counts when its outcome is known. A refusal
    names the limit that the service named when it last refused a request itself.
    """

    def __init__(
        self, clock_s: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock_s = clock_s
        self._chance = chance
        self._seen_at_s = clock_s()
        self._requests = 0.0
        self._accepted = 0.0
        self._limit: Limit = ""  # of the last refusal that was observed, and what it said
        self._detail = ""

    def admit(self) -> None:
        """Raise Overloaded for a share of the requests, as large as the service refused lately."""
        self._fade()
        if self._chance() < (self._requests - _SPARE * self._accepted) / (self._requests + 1):
            self._requests += 1
            raise Overloaded(self._detail, limit=self._limit)

    def observe(self, refusal: Overloaded | None) -> None:
        """Count the outcome of a request that was admitted: the service's refusal, or None where it accepted."""
        self._fade()
        self._requests += 1
        if refusal is None:
            self._accepted += 1
        else:
            self._limit, self._detail = refusal.limit, refusal.detail

    def _fade(self) -> None:
        now_s = self._clock_s()
        kept = 0.5 ** ((now_s - self._seen_at_s) / _HALF_LIFE_S)
        self._requests, self._accepted, self._seen_at_s = self._requests * kept, self._accepted * kept, now_s

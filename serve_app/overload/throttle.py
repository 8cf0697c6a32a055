"""Refuse requests early when the service would probably refuse them anyway.

This module imports neither HTTP libraries nor Ray.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from serve_app.errors import Limit, Overloaded

_HALF_LIFE_S = 0.5  # an observation loses half of its weight in this time
# For each request that the service accepts, the throttle admits this many requests. The number is above 1, so that the
# throttle soon notices when the service recovers.
_SPARE = 1.5


class Throttle:
    """Adaptive throttling of requests to a service. A refusal is cheap, because the service never sees the request.

    The probability of a refusal is ``(requests - spare * accepted) / (requests + 1)``, where both counts are those of
    the last few seconds (Beyer and others, "Site Reliability Engineering", O'Reilly 2016, chapter 21). A request is
    counted when its outcome is known. If the throttle refuses a request, the error has the limit and the text of the
    service's latest refusal.
    """

    def __init__(
        self, clock_s: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock_s = clock_s
        self._chance = chance
        self._seen_at_s = clock_s()
        self._requests = 0.0
        self._accepted = 0.0
        self._limit: Limit = ""  # of the latest observed refusal
        self._detail = ""

    def admit(self) -> None:
        """Raise Overloaded with a probability that rises with the service's recent refusals."""
        self._fade()
        if self._chance() < (self._requests - _SPARE * self._accepted) / (self._requests + 1):
            self._requests += 1
            raise Overloaded(self._detail, limit=self._limit)

    def observe(self, refusal: Overloaded | None) -> None:
        """Count the outcome of an admitted request: the service's refusal, or None if the service accepted it."""
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

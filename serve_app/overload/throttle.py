"""Refusing early what would be refused anyway. Plain: knows neither HTTP nor Ray."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from serve_app.errors import Overloaded

_HALF_LIFE_S = 0.5  # of what was seen
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

"""Adapt the batch size to what the engine gains from batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

WEIGHT_OF_NEWEST = 0.2  # the share of the newest batch in a running average
_GAIN = 0.98  # a larger batch pays if its time per item is at most this share of that of a smaller batch
_TRIAL_BATCHES = 4  # before a size is rejected, because a single batch may be slow for another reason
_RETRY_INTERVAL_S = 30.0  # before a rejected batch size is tried again


class BatchSize:
    """The limit on the size of batches. It doubles from one for as long as that reduces the engine's time per item.

    An engine that gains nothing from batches answers sooner with small ones. A size that did not pay is tried again
    after a while.
    """

    def __init__(self, max_size: int, clock_s: Callable[[], float]) -> None:
        self._sizes = [*(1 << power for power in range(max_size.bit_length()) if 1 << power < max_size), max_size]
        self._clock_s = clock_s
        self._item_s: dict[int, float] = {}  # by size: average seconds per item
        self._observed: Counter[int] = Counter()  # by size: batches in that average
        self._retry_at_s: dict[int, float] = {}  # by rejected size
        self._index = 0

    @property
    def limit(self) -> int:
        """The largest size that pays, or the next size while it is tried."""
        return self._sizes[self._index]

    def observe(self, size: int, took_s: float) -> None:
        """Record how long a batch of this size took."""
        if size not in self._sizes:
            return  # a size in between says nothing about those in the list
        item_s = took_s / size
        before_s = self._item_s.get(size, item_s)
        self._observed[size] += 1
        weight = max(WEIGHT_OF_NEWEST, 1 / self._observed[size])
        self._item_s[size] = before_s + weight * (item_s - before_s)
        if size == self.limit:
            self._move()

    def _move(self) -> None:
        now_s, limit = self._clock_s(), self.limit
        smaller_item_s = self._item_s.get(self._sizes[self._index - 1]) if self._index else None
        if smaller_item_s is not None and self._item_s[limit] > _GAIN * smaller_item_s:
            if self._observed[limit] >= _TRIAL_BATCHES:
                self._retry_at_s[limit] = now_s + _RETRY_INTERVAL_S
                del self._item_s[limit], self._observed[limit]  # the next trial starts without old values
                self._index -= 1
        elif limit != self._sizes[-1] and now_s >= self._retry_at_s.get(self._sizes[self._index + 1], now_s):
            self._index += 1

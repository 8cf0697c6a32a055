"""Find the batch size at which the engine needs the least time per item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

WEIGHT_OF_NEWEST = 0.2  # the weight of the newest batch in a running average
# A larger batch size is used only if its time per item is at most this fraction of the smaller size's time.
_GAIN = 0.98
# A size is rejected only after this many batches, because a single batch may be slow for a reason other than its size.
_TRIAL_BATCHES = 4
_LITTLE_LONGER = 1.5  # a batch takes little longer than one item if it takes at most this many times as long
_RETRY_INTERVAL_S = 30.0  # the wait before a rejected batch size is tried again


class BatchSize:
    """The limit on the size of batches. It starts at 1 and doubles as long as this reduces the engine's time per item.

    If larger batches do not make the engine faster, small batches are better, because they give results sooner. A size
    that was not faster is tried again after ``_RETRY_INTERVAL_S``.
    """

    def __init__(self, max_size: int, clock_s: Callable[[], float]) -> None:
        self._sizes = [*(1 << power for power in range(max_size.bit_length()) if 1 << power < max_size), max_size]
        self._clock_s = clock_s
        self._item_s: dict[int, float] = {}  # average seconds per item, by batch size
        self._observed: Counter[int] = Counter()  # number of batches in that average, by batch size
        self._retry_at_s: dict[int, float] = {}  # when to try a rejected batch size again
        self._index = 0

    @property
    def limit(self) -> int:
        """The largest size that has reduced the engine's time per item.

        Each size is compared with the next smaller size. During the trial of a larger size, the limit is that
        larger size.
        """
        return self._sizes[self._index]

    def within(self, time_s: float) -> int:
        """Return the largest size up to the limit whose batches take at most this time.

        If the smallest batches already take about as long, smaller batches would only cost throughput. So sizes whose
        batches take little longer than one item are within any time.
        """
        one_s = self._item_s.get(self._sizes[0], 0.0)
        enough_s = max(time_s, _LITTLE_LONGER * one_s)
        sizes = self._sizes[: self._index + 1]
        return max((size for size in sizes if size * self._item_s.get(size, 0.0) <= enough_s), default=self._sizes[0])

    def observe(self, size: int, took_s: float) -> None:
        """Record how long a batch of this size took."""
        if size not in self._sizes:
            return  # only the sizes in ``_sizes`` are compared
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

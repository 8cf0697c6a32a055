"""How many items a batch may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

WEIGHT_OF_NEWEST = 0.2  # the share that the newest batch has in a running average
_GAIN = 0.98  # a larger batch pays when an item of it takes at most this share of the time of one of a smaller batch
_TRIAL = 4  # batches before a size is given up: one may have been slow for another reason
_TRY_AGAIN_S = 30.0  # a batch size that did not pay


class BatchSize:
    """How many items a batch may have: doubled from one for as long as the engine then takes less time an item.

    An engine that gains nothing from batches answers sooner with small ones. A size that did not pay is tried again
    after a while.
    """

    def __init__(self, max_size: int, clock_s: Callable[[], float]) -> None:
        self._sizes = [*(1 << power for power in range(max_size.bit_length()) if 1 << power < max_size), max_size]
        self._clock_s = clock_s
        self._item_s: dict[int, float] = {}  # by size: the seconds that an item takes, on average
        self._seen: Counter[int] = Counter()  # by size: batches in that average
        self._try_again_at_s: dict[int, float] = {}  # by size: one that did not pay
        self._step = 0

    @property
    def limit(self) -> int:
        """The largest size that pays, or the next one on trial."""
        return self._sizes[self._step]

    def observe(self, size: int, took_s: float) -> None:
        """A batch of this size took so long."""
        if size not in self._sizes:
            return  # between two sizes: it says nothing of either
        item_s = took_s / size
        before_s = self._item_s.get(size, item_s)
        self._seen[size] += 1
        weight = max(WEIGHT_OF_NEWEST, 1 / self._seen[size])
        self._item_s[size] = before_s + weight * (item_s - before_s)
        if size == self.limit:
            self._move()

    def _move(self) -> None:
        now_s, limit = self._clock_s(), self.limit
        smaller_item_s = self._item_s.get(self._sizes[self._step - 1]) if self._step else None
        if smaller_item_s is not None and self._item_s[limit] > _GAIN * smaller_item_s:
            if self._seen[limit] >= _TRIAL:
                self._try_again_at_s[limit] = now_s + _TRY_AGAIN_S
                del self._item_s[limit], self._seen[limit]  # the next trial is judged by itself
                self._step -= 1
        elif limit != self._sizes[-1] and now_s >= self._try_again_at_s.get(self._sizes[self._step + 1], now_s):
            self._step += 1

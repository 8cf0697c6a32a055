"""The current window of a source: the histogram of its last images."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.drift.bins import BINS, images_in
from serve_app.drift.packing import pack, unpack

_PARTS = 8  # the window moves on by an eighth of its length


@dataclass
class _Part:
    """The counts of consecutive images."""

    counts: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(BINS, np.uint32))
    hours: Counter[int] = field(default_factory=Counter)  # the number of images by hour of day

    @property
    def images(self) -> int:
        return self.hours.total()


class Window:
    """The last images of a source, at least ``images`` of them once that many were added."""

    def __init__(self, images: int) -> None:
        self._wanted = images
        self._parts: deque[_Part] = deque([_Part()])

    @property
    def images(self) -> int:
        """How many images the window has."""
        return sum(part.images for part in self._parts)

    @property
    def is_full(self) -> bool:
        """Whether the window has as many images as it needs."""
        return self.images >= self._wanted

    @property
    def hours(self) -> Counter[int]:
        """The number of images of each hour of the day."""
        return sum((part.hours for part in self._parts), Counter())

    def counts(self) -> NDArray[np.uint32]:
        """Return the counts of all images in the window, (BINS,)."""
        total: NDArray[np.uint32] = np.sum([part.counts for part in self._parts], axis=0, dtype=np.uint32)
        return total

    def add(self, hour: int, counts: NDArray[Any]) -> bool:
        """Add the counts of some images, (BINS,). Return whether the window has moved on, and should be compared."""
        part = self._parts[-1]
        part.counts += counts
        part.hours[hour] += images_in(counts)
        if part.images * _PARTS < self._wanted:
            return False
        while self.images - self._parts[0].images >= self._wanted:
            self._parts.popleft()
        self._parts.append(_Part())
        return True

    def pack(self) -> bytes:
        """Return the window as bytes."""
        hours = [dict(part.hours) for part in self._parts]
        return pack({"hours": hours}, np.array([part.counts for part in self._parts]))

    @classmethod
    def restore(cls, data: bytes, images: int) -> Window:
        """Return a window that was saved. Raise ValueError if it is damaged, or has other bins."""
        made = cls(images)
        fields, (counts,) = unpack(data)
        if counts.ndim != 2 or counts.shape[1] != BINS:
            raise ValueError("the stored window has other bins")
        made._parts = deque(
            _Part(part, Counter({int(hour): count for hour, count in hours.items()}))
            for part, hours in zip(counts, fields["hours"], strict=True)
        )
        return made

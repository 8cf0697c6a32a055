"""The reference of a source: the histograms with which its current images are compared, by hour of day.

A day is not a night, so the reference of a stream has a histogram for each hour of the day (in UTC). Images are
compared only with the same hours of the reference. Each hour learns until it has enough images. The reference of HTTP
traffic has one histogram for all hours, because its images are not those of one camera. A reference that an operator
has set has the hours of the range of time, and all hours together stand for an hour that the range lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.drift.bins import BINS, FEATURES, SLICES, images_in
from serve_app.drift.packing import pack, unpack
from serve_app.drift.psi import distance
from serve_app.types import Json

HOURS = 24
_MAX_BLOCKS = 8  # of an hour, while it learns
_MIN_DETECTIONS = 10  # a block with fewer says nothing about the features of detections
_LARGEST = np.iinfo(np.uint16).max


@dataclass
class _Learning:
    """The blocks of an hour that still learns: the counts of consecutive images."""

    blocks: NDArray[np.uint16]  # (blocks, BINS); the last one is not complete


class Reference:
    """The histograms of a source that count as usual, and how much their blocks differ from each other."""

    def __init__(self, *, by_hour: bool, images: int, window_images: int) -> None:
        """Begin to learn. ``images`` is how many images each hour needs, or all hours together unless ``by_hour``."""
        self._by_hour = by_hour
        self._wanted = images
        self._block_images = max(window_images, -(-images // _MAX_BLOCKS))
        self._counts = np.zeros((HOURS, BINS), np.uint32)
        self._learning: dict[int, _Learning] = {}
        self._complete: set[int] = set()
        self._is_set = False  # by an operator, so that it does not learn
        self.noise = np.zeros(len(FEATURES))  # the largest PSI of a block against the others, by feature
        self.blocks = 0
        self.changed: set[int] = set()  # the hours that have changed since they were saved

    @classmethod
    def of_blocks(cls, blocks: Iterable[tuple[int, NDArray[Any]]], *, window_images: int) -> Reference:
        """Return a reference that does not learn. ``blocks`` are pairs of an hour of the day and its counts, (BINS,).

        Raise ValueError if there are fewer than ``window_images`` images.
        """
        by_hour: dict[int, list[NDArray[Any]]] = {}
        for hour, counts in blocks:
            by_hour.setdefault(hour % HOURS, []).append(counts)
        hours: dict[int, NDArray[Any]] = {
            hour: np.array(each).sum(axis=0, dtype=np.uint32) for hour, each in by_hour.items()
        }
        made = cls.of_hours(hours, window_images=window_images)
        for hour in made._complete:
            made._note_noise(np.array(by_hour[hour]), hours[hour])
        return made

    @classmethod
    def of_hours(
        cls,
        hours: Mapping[int, NDArray[Any]],
        *,
        window_images: int,
        blocks: int = 0,
        noise: Mapping[str, float] = MappingProxyType({}),
    ) -> Reference:
        """Return a reference with these counts, (BINS,), by hour of the day: see ``of_blocks``.

        ``blocks`` and ``noise`` are those of another reference with the same counts.
        """
        made = cls(by_hour=True, images=window_images, window_images=window_images)
        for hour, counts in hours.items():
            made._counts[hour] = counts
            if images_in(counts) >= window_images:
                made._complete.add(hour)
        made.blocks = blocks
        made.noise = np.array([noise.get(feature.name, 0.0) for feature in FEATURES])
        made._is_set = True
        made.changed = set(range(HOURS))
        if made.images < window_images:
            raise ValueError(f"{made.images} images are too few for a reference; {window_images} are needed")
        return made

    @property
    def images(self) -> int:
        """How many images the reference has."""
        return sum(map(images_in, self._counts))

    @property
    def is_set(self) -> bool:
        """Whether an operator has set the reference. Otherwise, it consists of the first images of the source."""
        return self._is_set

    @property
    def is_by_hour(self) -> bool:
        """Whether an hour is compared with the same hour of the reference."""
        return self._by_hour

    @property
    def complete_hours(self) -> list[int]:
        """The hours of the day that have enough images, or hour 0 if all hours are together."""
        return sorted(self._complete)

    def learns(self, hour: int) -> bool:
        """Return whether images of this hour of the day belong to the reference, and not to the current window."""
        return not self._is_set and self._slot(hour) not in self._complete

    def images_missing(self, hour: int) -> int:
        """Return how many images this hour of the day still needs."""
        return max(self._wanted - images_in(self._counts[self._slot(hour)]), 0) if self.learns(hour) else 0

    def learn(self, hour: int, counts: NDArray[Any]) -> None:
        """Add the counts of some images, (BINS,), to an hour of the day that learns."""
        slot = self._slot(hour)
        self.changed.add(slot)
        self._counts[slot] += counts
        learning = self._learning.get(slot)
        if learning is None:
            learning = self._learning[slot] = _Learning(np.zeros((1, BINS), np.uint16))
        last = learning.blocks[-1]
        np.minimum(last.astype(np.uint32) + counts, _LARGEST, out=last, casting="unsafe")
        if images_in(self._counts[slot]) >= self._wanted:
            del self._learning[slot]
            self._complete.add(slot)
            whole = [block for block in learning.blocks if 2 * images_in(block) >= self._block_images]
            self._note_noise(np.array(whole), self._counts[slot])
        elif images_in(last) >= self._block_images:
            learning.blocks = np.vstack([learning.blocks, np.zeros((1, BINS), np.uint16)])

    def expected(self, hours: Mapping[int, int]) -> NDArray[np.float64]:
        """Return what the reference has at these hours of the day, (BINS,). ``hours`` has the images of each hour.

        The hours have the same shares as in ``hours``. The sum is that of the reference's images at these hours.
        """
        total = sum(hours.values())
        expected, images = np.zeros(BINS), 0
        for slot, count in self._slots(hours).items():
            counts = self._counts[slot] if slot in self._complete else self._counts.sum(axis=0)
            images += images_in(counts)
            expected += counts * (count / total / images_in(counts))
        return expected * images

    def by_hours(self) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        """Yield each hour of the day that has images, with its counts, (BINS,)."""
        for hour in range(HOURS):
            if images_in(self._counts[hour]):
                yield hour, self._counts[hour]

    def total(self) -> NDArray[np.uint32]:
        """Return the counts of all hours together, (BINS,)."""
        total: NDArray[np.uint32] = self._counts.sum(axis=0, dtype=np.uint32)
        return total

    def fields(self) -> Json:
        """Return what ``restore`` needs besides the hours."""
        return {
            "by_hour": self._by_hour,
            "is_set": self._is_set,
            "wanted": self._wanted,
            "complete": self.complete_hours,
            "blocks": self.blocks,
            "noise": self.noise.tolist(),
        }

    def pack_hour(self, hour: int) -> bytes:
        """Return an hour as bytes, also with the blocks of an hour that learns."""
        learning = self._learning.get(hour)
        return pack({}, self._counts[hour], *([learning.blocks] if learning else []))

    @classmethod
    def restore(cls, fields: Json, hours: Mapping[int, bytes], *, window_images: int) -> Reference:
        """Return a reference that was saved. Raise ValueError if it is damaged, or has other bins."""
        made = cls(by_hour=fields["by_hour"], images=fields["wanted"], window_images=window_images)
        made._is_set, made._complete, made.blocks = fields["is_set"], set(fields["complete"]), fields["blocks"]
        made.noise = np.array(fields["noise"], float)
        for hour, data in hours.items():
            _, (counts, *blocks) = unpack(data)
            if counts.shape != (BINS,) or made.noise.shape != (len(FEATURES),):
                raise ValueError("the stored reference has other bins")
            made._counts[hour] = counts
            if blocks:
                made._learning[hour] = _Learning(blocks[0])
        return made

    def _slot(self, hour: int) -> int:
        return hour % HOURS if self._by_hour else 0

    def _slots(self, hours: Mapping[int, int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for hour, count in hours.items():
            found[self._slot(hour)] = found.get(self._slot(hour), 0) + count
        return found

    def _note_noise(self, blocks: NDArray[Any], total: NDArray[Any]) -> None:
        """Compare each block of an hour, (blocks, BINS), with the rest of the hour."""
        if len(blocks) < 2:
            return
        self.blocks += len(blocks)
        for block in blocks:
            rest = total - np.minimum(block, total)
            for number, feature in enumerate(FEATURES):
                part = SLICES[feature.name]
                if min(block[part].sum(), rest[part].sum()) >= (1 if feature.counts_images else _MIN_DETECTIONS):
                    found = distance(feature, rest[part], block[part]).psi
                    self.noise[number] = max(self.noise[number], found)

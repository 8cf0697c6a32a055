"""Some metrics of one process, as numbers that other processes can ask for.

The page at ``/console`` shows them, so that it needs no Prometheus. The metrics with ``in_overview`` have a fixed set
of tags, so these numbers need little memory.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

WINDOW_S = 10  # rates and means are those of the last ten whole seconds

Series = tuple[str, ...]  # a metric's name, and the values of its tags


class Metric(Protocol):
    """What is read of a ``metrics.Metric``."""

    @property
    def name(self) -> str: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def buckets(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Figures:
    """The numbers of one process, or the sum of several processes."""

    counts: Mapping[Series, float] = field(default_factory=dict)  # since the start, as are the histograms
    # The number of values in each bucket: one more than there are bounds.
    histograms: Mapping[Series, tuple[int, ...]] = field(default_factory=dict)
    recent_counts: Mapping[Series, int] = field(default_factory=dict)  # records within the window
    recent_sums: Mapping[Series, float] = field(default_factory=dict)  # the sums of their values

    def per_s(self, series: Series) -> float:
        """Return by how much a counter grew per second within the window."""
        return self.recent_sums.get(series, 0.0) / WINDOW_S

    def mean(self, series: Series) -> float | None:
        """Return the mean of the values within the window, or None if there was none."""
        count = self.recent_counts.get(series, 0)
        return self.recent_sums[series] / count if count else None


def combined(parts: Iterable[Figures]) -> Figures:
    """Return the sum of the figures of several processes."""
    counts, recent_counts, recent_sums = Counter[Series](), Counter[Series](), Counter[Series]()
    histograms: dict[Series, tuple[int, ...]] = {}
    for part in parts:
        counts.update(part.counts)
        recent_counts.update(part.recent_counts)
        recent_sums.update(part.recent_sums)
        for series, buckets in part.histograms.items():
            before = histograms.get(series, (0,) * len(buckets))
            histograms[series] = tuple(map(sum, zip(before, buckets, strict=True)))
    return Figures(counts, histograms, recent_counts, recent_sums)


class FigureLog:
    """Adds up what one process records."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._counts: dict[Series, float] = {}
        self._histograms: dict[Series, list[int]] = {}
        # For each second: its number, and the count and the sum of each series. One second more than the window,
        # because the current second is not over.
        self._seconds: deque[tuple[int, dict[Series, list[float]]]] = deque(maxlen=WINDOW_S + 1)

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Add a value of a counter or a histogram."""
        series = (metric.name, *(tags[tag] for tag in metric.tags))
        if metric.buckets:
            if series not in self._histograms:
                self._histograms[series] = [0] * (len(metric.buckets) + 1)
            self._histograms[series][bisect_left(metric.buckets, value)] += 1
        else:
            self._counts[series] = self._counts.get(series, 0.0) + value
        second = int(self._clock_s())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, {}))
        recent = self._seconds[-1][1].setdefault(series, [0, 0.0])
        recent[0] += 1
        recent[1] += value

    def figures(self) -> Figures:
        """Return the figures up to now."""
        now = int(self._clock_s())
        counts, sums = Counter[Series](), dict[Series, float]()
        for second, recorded in self._seconds:
            if now - WINDOW_S <= second < now:
                for series, (count, total) in recorded.items():
                    counts[series] += int(count)
                    sums[series] = sums.get(series, 0.0) + total
        histograms = {series: tuple(buckets) for series, buckets in self._histograms.items()}
        return Figures(dict(self._counts), histograms, dict(counts), sums)

"""What one process has seen since its last report, by model and source.

Every process that calls Detectors has a tally: Preprocessors, the processes of streams, and JobRunners. The tally
counts every image that was answered, and measures as many of them as drift needs.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.drift.bins import BINS, histogram_of
from serve_app.drift.features import look_of
from serve_app.types import Answer, Letterbox, Pixels, Traffic

MAX_SOURCES = 256  # of a process; further sources are counted together as OTHER
MAX_LABELS = 1000  # of a model and a source in a minute; further labels are counted together as OTHER
OTHER = "other"
JOBS = "jobs"  # the images of all batch jobs
HTTP = "http"  # requests without an API key
KEY, STREAM = "key/", "stream/"  # the beginnings of the names of other sources
_MINUTE_S, _HOUR_S = 60, 3600
# Far more than the seconds between two reports need. If no report can be delivered, further images are not counted.
_MAX_SEEN, _MAX_MINUTES = 2_000, 20_000


def source_of(traffic: Traffic, tenant: str) -> str:
    """Return the name of the source of an image: ``stream/gate``, ``key/dock``, ``http`` or ``jobs``."""
    if traffic == "stream":
        return STREAM + tenant
    if traffic == "job":
        return JOBS
    return KEY + tenant if tenant else HTTP


def tenants_of(traffic: Traffic, sources: Collection[str]) -> frozenset[str]:
    """Return the tenants of this kind of traffic that have one of these sources: see ``source_of``."""
    prefix = STREAM if traffic == "stream" else KEY
    tenants = {source.removeprefix(prefix) for source in sources if source.startswith(prefix)}
    return frozenset(tenants | {""} if traffic == "interactive" and HTTP in sources else tenants)


@dataclass
class Seen:
    """The measured images of a source within one hour."""

    model: str
    version: str
    source: str
    hour: int  # since the epoch
    counts: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(BINS, np.uint32))
    labels: dict[int, str] = field(default_factory=dict)  # of the class ids in the counts


@dataclass
class MinuteCounts:
    """All answered images of a source within one minute, and their detections."""

    model: str
    source: str
    minute: int  # since the epoch
    images: int = 0
    detections: Counter[str] = field(default_factory=Counter)  # by label

    def add(self, images: int, detections: Counter[str]) -> None:
        """Add other counts of the same minute. Labels beyond the first 1,000 are counted together as ``other``."""
        self.images += images
        for label, count in detections.items():
            is_known = label in self.detections or len(self.detections) < MAX_LABELS
            self.detections[label if is_known else OTHER] += count


@dataclass(frozen=True)
class Report:
    """What a process has seen since its last report. A report that is repeated has the same number."""

    reporter: str  # a random name of the process
    number: int  # counts from 0
    seen: tuple[Seen, ...]
    minutes: tuple[MinuteCounts, ...]
    lost: int = 0  # images that were not counted, because the tally was full


class Tally:
    """Counts and measures answered images. Its memory is bounded, also if no report can be delivered for long."""

    def __init__(
        self, *, measures: bool = True, stream_interval_s: float = 5.0, clock_s: Callable[[], float] = time.time
    ) -> None:
        """Start with nothing. Without ``measures``, images are only counted.

        ``stream_interval_s`` is the least time between two measured frames of a stream, because frames in a row are
        nearly the same.
        """
        self._measures = measures
        self._stream_interval_s = stream_interval_s
        self._clock_s = clock_s
        self._seen: dict[tuple[str, str, str, int], Seen] = {}
        self._minutes: dict[tuple[str, str, int], MinuteCounts] = {}
        self._measured_at_s: dict[tuple[str, str], float] = {}  # when a stream was last measured
        self._sources: set[str] = set()
        self._lost = 0

    def add(
        self, model: str, version: str, traffic: Traffic, tenant: str, frame: Pixels, fitted: Letterbox, answer: Answer
    ) -> None:
        """Count an answered image, and measure it if it is due.

        ``model`` is the name by which requests select the model. ``frame`` is the model input, which has the image at
        the position ``fitted``.
        """
        now_s = self._clock_s()
        source = self._bounded(source_of(traffic, tenant))
        found = answer.detections
        labels = found.counted_labels
        self._count(model, source, int(now_s // _MINUTE_S), labels)
        if self._measures and self._is_due(model, source, traffic, now_s):
            seen = Seen(model, version, source, int(now_s // _HOUR_S))
            seen.counts += histogram_of(look_of(frame, fitted), answer)
            seen.labels.update(zip(found.counted_class_id.tolist(), labels, strict=False))
            self._merge(seen)

    def take(self, reporter: str, number: int) -> Report | None:
        """Return what was seen since the last call, or None if that is nothing."""
        if not self._seen and not self._minutes:
            return None
        report = Report(reporter, number, tuple(self._seen.values()), tuple(self._minutes.values()), self._lost)
        self._seen, self._minutes, self._sources, self._lost = {}, {}, set(), 0
        if len(self._measured_at_s) > MAX_SOURCES:
            self._measured_at_s.clear()
        return report

    def _is_due(self, model: str, source: str, traffic: Traffic, now_s: float) -> bool:
        if traffic != "stream":
            return True
        since_s = now_s - self._measured_at_s.get((model, source), -math.inf)
        if 0 <= since_s < self._stream_interval_s:  # the clock may have been set back
            return False
        self._measured_at_s[model, source] = now_s
        return True

    def _bounded(self, source: str) -> str:
        if source not in self._sources:
            if len(self._sources) >= MAX_SOURCES:
                return OTHER
            self._sources.add(source)
        return source

    def _merge(self, seen: Seen) -> None:
        key = seen.model, seen.version, seen.source, seen.hour
        if key not in self._seen:
            if len(self._seen) < _MAX_SEEN:
                self._seen[key] = seen
            return
        self._seen[key].counts += seen.counts
        self._seen[key].labels.update(seen.labels)

    def _count(self, model: str, source: str, minute: int, labels: Sequence[str]) -> None:
        key = model, source, minute
        if key not in self._minutes:
            if len(self._minutes) >= _MAX_MINUTES:
                self._lost += 1
                return
            self._minutes[key] = MinuteCounts(model, source, minute)
        self._minutes[key].add(1, Counter(labels))

"""One watched source of one model: its reference, its current window, and the features that drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.config import DriftArgs
from serve_app.drift.bins import FEATURES, SLICES, images_in
from serve_app.drift.psi import distance, limit
from serve_app.drift.reference import Reference
from serve_app.drift.window import Window
from serve_app.types import Json

MIN_DETECTIONS = 20  # in the window and in the reference, for the features of detections
_EVALUATIONS = 2  # a feature starts to drift when it was above its limit in this many comparisons in a row
_END = 0.5  # a feature drifts until its PSI is below this share of its limit
MAX_LABELS = 1000

Change = Literal["began", "changed", "ended"]
State = Literal["learning", "collecting", "steady", "drifting"]


@dataclass(frozen=True)
class Figure:
    """The comparison of one feature. ``psi`` and ``limit`` are None if there is too little data, as ``detail`` says."""

    psi: float | None
    limit: float | None
    observations: int
    detail: str = ""


@dataclass
class Alarm:
    """Which features drift. It takes two comparisons to begin, and a much lower figure to end."""

    features: dict[str, float] = field(default_factory=dict)  # the PSI of each feature that drifts
    since_at_s: float | None = None
    _above: Counter[str] = field(default_factory=Counter)  # comparisons in a row

    def note(self, figures: Mapping[str, Figure], now_s: float) -> Change | None:
        """Take new figures into account. Return how the set of drifting features has changed, or None."""
        before = set(self.features)
        for name, figure in figures.items():
            if figure.psi is None or figure.limit is None:
                continue
            self._above[name] = self._above[name] + 1 if figure.psi > figure.limit else 0
            is_beginning = self._above[name] >= _EVALUATIONS
            is_staying = name in self.features and figure.psi > _END * figure.limit
            if is_beginning or is_staying:
                self.features[name] = figure.psi
            else:
                self.features.pop(name, None)
        after = set(self.features)
        if after == before:
            return None
        if not before:
            self.since_at_s = now_s
            return "began"
        if not after:
            self.since_at_s = None
            return "ended"
        return "changed"

    def named(self) -> list[str]:
        """Return the names of the features that drift, those with the largest PSI first."""
        return sorted(self.features, key=lambda name: -self.features[name])

    def clear(self) -> bool:
        """Forget all features. Return whether any of them drifted."""
        was_drifting = bool(self.features)
        self.features, self.since_at_s, self._above = {}, None, Counter()
        return was_drifting

    def fields(self) -> Json:
        """Return the state as JSON."""
        return {"features": self.features, "since_at_s": self.since_at_s, "above": dict(self._above)}

    @classmethod
    def restore(cls, fields: Json) -> Alarm:
        """Return a state that was saved with ``fields``."""
        return cls(dict(fields["features"]), fields["since_at_s"], Counter(fields["above"]))


class Watched:
    """The state of one source of one version of a model. It takes 24 KiB, and up to 120 KiB while it learns."""

    def __init__(self, version: str, args: DriftArgs, *, by_hour: bool) -> None:
        """Begin to watch. ``by_hour``: whether each hour of the day has a reference of its own."""
        self.version = version
        self.labels: dict[int, str] = {}  # of the class ids that were seen
        self.reference = Reference(by_hour=by_hour, images=args.reference_images, window_images=args.window_images)
        self.window = Window(args.window_images)
        self.alarm = Alarm()
        self.figures: dict[str, Figure] = {}  # empty until the first comparison
        self.seen_at_s = 0.0  # when the last image was seen
        self._args = args
        self._last_hour = 0

    @property
    def state(self) -> State:
        """What the source does at present."""
        if self.alarm.features:
            return "drifting"
        if self.reference.learns(self._last_hour):
            return "learning"
        return "steady" if self.figures else "collecting"

    @property
    def detail(self) -> str:
        """Why there are no figures, or why they do not contain the latest images. Empty if they do."""
        if missing := self.reference.images_missing(self._last_hour):
            when = (
                f" between {self._last_hour}:00 and {self._last_hour + 1}:00 UTC" if self.reference.is_by_hour else ""
            )
            return f"the reference needs {missing} more images{when}"
        if not self.window.is_full:
            return f"the window has {self.window.images} of {self._args.window_images} images"
        return ""

    def add(self, hour: int, counts: NDArray[Any], now_s: float) -> Change | None:
        """Add the counts of images, (BINS,), seen at this hour of the day. Return how the drift has changed."""
        self.seen_at_s, self._last_hour = now_s, hour
        if self.reference.learns(hour):
            self.reference.learn(hour, counts)
            return None
        if not self.window.add(hour, counts) or not self.window.is_full:
            return None
        self.figures = self.compare()
        return self.alarm.note(self.figures, now_s)

    def compare(self) -> dict[str, Figure]:
        """Compare the window with the reference, feature by feature."""
        reference = self.reference.expected(self.window.hours)
        noise = dict(zip((feature.name for feature in FEATURES), self.reference.noise, strict=True))
        return figures_of(self.window.counts(), reference, noise, self.reference.blocks, self._args)

    def set_reference(self, reference: Reference) -> None:
        """Replace the reference. This ends a drift."""
        self.reference, self.window, self.alarm = reference, Window(self._args.window_images), Alarm()
        self.figures = {}

    def note_labels(self, labels: Mapping[int, str]) -> None:
        """Remember the labels of class ids, up to 1,000 of them."""
        for class_id, label in labels.items():
            if class_id in self.labels or len(self.labels) < MAX_LABELS:
                self.labels[class_id] = label

    def fields(self) -> Json:
        """Return what ``restore`` needs besides the window and the hours of the reference."""
        return {
            "version": self.version,
            "labels": list(self.labels.items()),
            "reference": self.reference.fields(),
            "alarm": self.alarm.fields(),
            "seen_at_s": self.seen_at_s,
            "last_hour": self._last_hour,
        }

    @classmethod
    def restore(cls, fields: Json, window: bytes | None, hours: Mapping[int, bytes], args: DriftArgs) -> Watched:
        """Return a source that was saved. Raise ValueError, KeyError or TypeError if what was saved is damaged."""
        made = cls(fields["version"], args, by_hour=fields["reference"]["by_hour"])
        made.labels = {int(class_id): str(label) for class_id, label in fields["labels"]}
        made.reference = Reference.restore(fields["reference"], hours, window_images=args.window_images)
        made.alarm = Alarm.restore(fields["alarm"])
        made.seen_at_s, made._last_hour = fields["seen_at_s"], fields["last_hour"]
        if window is not None:
            made.window = Window.restore(window, args.window_images)
        if made.window.is_full:
            made.figures = made.compare()
        return made


def figures_of(
    window: NDArray[Any], reference: NDArray[Any], noise: Mapping[str, float], blocks: int, args: DriftArgs
) -> dict[str, Figure]:
    """Compare the counts of a window with those of a reference, both (BINS,). ``psi.limit`` explains the others."""
    found = {}
    for feature in FEATURES:
        part = SLICES[feature.name]
        n, m = int(window[part].sum()), int(reference[part].sum())
        if feature.counts_images:
            least, what = args.window_images, "images"
        else:
            least, what = MIN_DETECTIONS, "detections"
        if n < least or m < least:
            which = "window" if n < least else "reference"
            detail = f"the {which} has {min(n, m)} {what}, and {least} are needed"
            found[feature.name] = Figure(None, None, n, detail)
            continue
        distance_ = distance(feature, reference[part], window[part])
        allowed = limit(distance_.chance, args.threshold, noise[feature.name], blocks)
        found[feature.name] = Figure(round(distance_.psi, 4), round(allowed, 4), n)
    return found


class Together:
    """All sources of a model together, with the drift of their sum.

    The reference is composed of the sources' references, in the shares that the sources have in the windows. So it is
    no drift if one source sends more images than before, or if a source begins or ends.
    """

    def __init__(self) -> None:
        self.alarm = Alarm()
        self.figures: dict[str, Figure] = {}
        self.window = np.zeros(0)
        self.reference = np.zeros(0)
        self.sources = 0

    def compare(self, sources: list[Watched], args: DriftArgs, now_s: float) -> Change | None:
        """Compare the sum of the sources that have figures. Return how the drift has changed."""
        known = [source for source in sources if source.window.is_full]
        self.sources = len(known)
        if not known:
            self.figures = {}
            return "ended" if self.alarm.clear() else None
        self.window = np.sum([source.window.counts() for source in known], axis=0)
        rates = [_per_image(source.reference.expected(source.window.hours)) for source in known]
        composed = np.sum([rate * source.window.images for rate, source in zip(rates, known, strict=True)], axis=0)
        images = sum(source.reference.images for source in known)
        self.reference = composed / images_in(self.window) * images
        # The sources' noise partly cancels out in their sum, so that its mean is an upper bound.
        noise = np.mean([source.reference.noise for source in known], axis=0)
        named = dict(zip((feature.name for feature in FEATURES), noise, strict=True))
        blocks = min(source.reference.blocks for source in known)
        self.figures = figures_of(self.window, self.reference, named, blocks, args)
        return self.alarm.note(self.figures, now_s)


def _per_image(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts / max(images_in(counts), 1)

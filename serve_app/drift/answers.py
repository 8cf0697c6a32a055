"""The JSON with which the monitor answers: see ``schemas.drift``."""

from __future__ import annotations

from typing import Any, cast

from numpy.typing import NDArray

from serve_app.drift.bins import FEATURES, SLICES, bin_name
from serve_app.drift.monitor import ALL, Monitor
from serve_app.drift.notices import Notice
from serve_app.drift.watched import Alarm, Figure, Together, Watched
from serve_app.errors import NotFound
from serve_app.schemas.drift import (
    DriftChange,
    DriftHistograms,
    FeatureDrift,
    FeatureHistogram,
    FeatureName,
    HourCounts,
    ReferenceFile,
    ReferenceStatus,
    SourceDrift,
)


def report_of(monitor: Monitor) -> list[SourceDrift]:
    """Return the drift of every source of every model. All sources together come first."""
    together = [_of_all(model, one) for model, one in sorted(monitor.together.items())]
    return together + [_of_source(*key, watched) for key, watched in sorted(monitor.sources.items())]


def histograms_of(monitor: Monitor, model: str, source: str) -> DriftHistograms:
    """Return the histograms of a source. Raise NotFound if there is no such source, or if it has no data."""
    if source == ALL:
        if model not in monitor.together or not monitor.together[model].sources:
            raise NotFound(f"no source of the model {model!r} has a full window yet")
        together = monitor.together[model]
        labels = {
            class_id: label
            for (name, _), watched in monitor.sources.items()
            if name == model
            for class_id, label in watched.labels.items()
        }
        return _histograms(model, source, together.reference, together.window, labels)
    watched = monitor.find(model, source)
    window = watched.window
    reference = watched.reference.expected(window.hours) if window.images else watched.reference.total()
    return _histograms(model, source, reference, window.counts(), watched.labels)


def reference_of(monitor: Monitor, model: str, source: str) -> ReferenceFile:
    """Return the reference of a source, to be saved in a file. Raise NotFound if there is no such source."""
    reference = monitor.find(model, source).reference
    names = [feature.name for feature in FEATURES]
    return ReferenceFile(
        hours=[HourCounts(hour=hour, counts=counts.tolist()) for hour, counts in reference.by_hours()],
        blocks=reference.blocks,
        noise=cast(dict[FeatureName, float], dict(zip(names, reference.noise.tolist(), strict=True))),
    )


def change_of(notice: Notice) -> DriftChange:
    """Return the event of a notice."""
    return DriftChange(
        change=notice.change,
        model=notice.model,
        source=notice.source,
        features=cast(list[FeatureName], list(notice.features)),
        psi=cast(dict[FeatureName, float], notice.psi),
        since_at_s=notice.since_at_s,
    )


def _of_source(model: str, source: str, watched: Watched) -> SourceDrift:
    reference = watched.reference
    return SourceDrift(
        model=model,
        version=watched.version,
        source=source,
        state=watched.state,
        detail=watched.detail,
        drifting=cast(list[FeatureName], watched.alarm.named()),
        since_at_s=watched.alarm.since_at_s,
        seen_at_s=watched.seen_at_s,
        window_images=watched.window.images,
        reference=ReferenceStatus(
            images=reference.images,
            hours=reference.complete_hours if reference.is_by_hour else [],
            origin="set" if reference.is_set else "first_images",
        ),
        features=_features(watched.figures, watched.alarm),
    )


def _of_all(model: str, together: Together) -> SourceDrift:
    alarm = together.alarm
    return SourceDrift(
        model=model,
        version=None,
        source=ALL,
        state="drifting" if alarm.features else "steady" if together.figures else "collecting",
        detail="" if together.figures else "no source has a full window yet",
        drifting=cast(list[FeatureName], alarm.named()),
        since_at_s=alarm.since_at_s,
        features=_features(together.figures, alarm),
    )


def _features(figures: dict[str, Figure], alarm: Alarm) -> dict[FeatureName, FeatureDrift]:
    return {
        cast(FeatureName, name): FeatureDrift(
            psi=figure.psi,
            limit=figure.limit,
            observations=figure.observations,
            drifting=name in alarm.features,
            detail=figure.detail,
        )
        for name, figure in figures.items()
    }


def _histograms(
    model: str, source: str, reference: NDArray[Any], window: NDArray[Any], labels: dict[int, str]
) -> DriftHistograms:
    features = {}
    for feature in FEATURES:
        part = SLICES[feature.name]
        features[cast(FeatureName, feature.name)] = FeatureHistogram(
            bins=[bin_name(feature, number, labels) for number in range(feature.size)],
            reference=_shares(reference[part]),
            current=_shares(window[part]),
        )
    return DriftHistograms(model=model, source=source, features=features)


def _shares(counts: NDArray[Any]) -> list[float]:
    total = float(counts.sum())
    shares: list[float] = (counts / total if total else counts.astype(float)).round(5).tolist()
    return shares

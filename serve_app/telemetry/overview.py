"""What ``GET /overview`` shows of the figures of all replicas."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from serve_app.schemas.models import ModelStatus
from serve_app.schemas.overview import Histogram, ModelOverview, Overview, Refusals
from serve_app.telemetry.figures import WINDOW_S, Figures
from serve_app.telemetry.metrics import EXECUTIONS, INFERENCES, REFUSALS, STAGE_MS


@dataclass(frozen=True)
class ModelFigures:
    """The figures of one model's Detectors."""

    status: ModelStatus
    replicas: int  # that have answered
    figures: Figures


@dataclass(frozen=True)
class ServiceFigures:
    """The figures of all replicas that have answered."""

    models: list[ModelFigures]
    requests: Figures  # of the Ingress and the Preprocessor
    replicas: dict[str, int] | None  # by deployment; None if Serve does not answer

    def overview(self) -> Overview:
        """Return the overview, without the parts that depend on the client."""
        answered = (STAGE_MS.name, "total")
        return Overview(
            at_s=time.time(),
            models=[_model(model) for model in self.models],
            replicas=self.replicas,
            requests_per_s=round(self.requests.recent_counts.get(answered, 0) / WINDOW_S, 2),
            stages=_stages(self.requests, ("decode", "total")),
            refusals=_refusals(self.requests),
            streams=None,
            jobs=None,
            drift=None,
        )


def _model(model: ModelFigures) -> ModelOverview:
    figures = model.figures
    images, batches = (INFERENCES.name,), (EXECUTIONS.name,)
    images_per_s, batches_per_s = figures.per_s(images), figures.per_s(batches)
    delay_ms = figures.mean((STAGE_MS.name, "queue"))
    return ModelOverview(
        status=model.status,
        replicas=model.replicas,
        images_per_s=round(images_per_s, 2),
        mean_batch_size=round(images_per_s / batches_per_s, 2) if batches_per_s else None,
        queue_delay_ms=None if delay_ms is None else round(delay_ms, 2),
        images=int(figures.counts.get(images, 0)),
        batches=int(figures.counts.get(batches, 0)),
        stages=_stages(figures, ("queue", "inference", "postprocess")),
    )


def _stages(figures: Figures, names: Iterable[str]) -> dict[str, Histogram]:
    bounds = list(STAGE_MS.buckets)
    empty = (0,) * (len(bounds) + 1)
    return {
        name: Histogram(bounds_ms=bounds, counts=figures.histograms.get((STAGE_MS.name, name), empty)) for name in names
    }


def _refusals(figures: Figures) -> list[Refusals]:
    found = [
        Refusals(code=series[1], limit=series[2], count=int(count))
        for series, count in figures.counts.items()
        if series[0] == REFUSALS.name
    ]
    return sorted(found, key=lambda one: (-one.count, one.code, one.limit))

"""The adapter that records Sightline's metrics with Ray."""

from __future__ import annotations

from ray.serve import metrics

from serve_app.telemetry.metrics import Metric


class RayInstrument:
    """The Ray metric for one of Sightline's metrics. See ``telemetry.metrics.Instrument``."""

    def __init__(self, metric: Metric) -> None:
        if metric.kind == "counter":
            self._record = metrics.Counter(metric.name, metric.description, metric.tags).inc
        elif metric.kind == "gauge":
            self._record = metrics.Gauge(metric.name, metric.description, metric.tags).set
        else:
            histogram = metrics.Histogram(metric.name, metric.description, list(metric.buckets), metric.tags)
            self._record = histogram.observe

    def record(self, value: float, tags: dict[str, str]) -> None:
        """Record a value with its tags."""
        self._record(value, tags)

"""Fake instruments for tests of metrics."""

from __future__ import annotations

from serve_app.telemetry.metrics import Metric

Record = tuple[str, float, dict[str, str]]


class FakeInstrument:
    """An instrument that appends (metric name, value, tags) to ``records`` for each recorded value."""

    def __init__(self, metric: Metric, records: list[Record]) -> None:
        self._name = metric.name.removeprefix("sightline_")
        self._records = records

    def record(self, value: float, tags: dict[str, str]) -> None:
        self._records.append((self._name, value, tags))

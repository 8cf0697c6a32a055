"""Publish the counts of finished minutes, with a limited number of sources and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from serve_app.telemetry.cloudwatch.documents import Counts, documents
from serve_app.telemetry.cloudwatch.outlets import Delivery

OTHER = "other"  # the name of everything beyond the limits. AWS charges for each name.
MAX_SOURCES = 100  # of each model
MAX_LABELS = 100  # of each model


class Publisher:
    """Sends documents for the counts that it gets. Each count is in exactly one document.

    Each model's first sources and labels keep their names as long as this process runs, so that the series in
    CloudWatch do not change their meaning. Use a publisher from one thread at a time.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._sources: dict[str, set[str]] = {}
        self._labels: dict[str, set[str]] = {}

    def publish(self, counts: Iterable[Counts]) -> None:
        """Send a document for each minute, model and source. This blocks for up to a few seconds.

        Counts of a minute that was already published get documents of their own, which CloudWatch adds to the minute.
        """
        lines = [line for one in self._bounded(counts) for line in documents(one)]
        self._delivery.send(lines)

    def close(self) -> None:
        """Try once more to send the documents that wait, and close the outlet."""
        self._delivery.close()

    @property
    def outcomes(self) -> dict[str, int]:
        """How many documents were sent, and how many were dropped because too many waited."""
        return {"sent": self._delivery.sent, "dropped": self._delivery.dropped}

    def _bounded(self, counts: Iterable[Counts]) -> list[Counts]:
        """Give the name ``other`` to all sources and labels beyond the limits, and add their counts up."""
        found: dict[tuple[int, str, str], Counts] = {}
        for one in counts:
            source = _known(one.source, self._sources.setdefault(one.model, set()), MAX_SOURCES)
            labels = self._labels.setdefault(one.model, set())
            key = one.began_at_s, one.model, source
            before = found.get(key)
            detections = Counter(before.detections if before else {})
            for label, count in one.detections.items():
                detections[_known(label, labels, MAX_LABELS)] += count
            found[key] = replace(
                one,
                source=source,
                images=one.images + (before.images if before else 0),
                detections=detections,
                figures=one.figures if source == one.source else {},  # those of several sources cannot be added up
            )
        return list(found.values())


def _known(name: str, known: set[str], limit: int) -> str:
    """Return the name, or ``other`` if the limit is reached. Remember a new name."""
    if name not in known:
        if len(known) >= limit:
            return OTHER
        known.add(name)
    return name

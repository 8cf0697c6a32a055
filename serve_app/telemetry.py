"""What is measured: every metric's name, meaning and tags, declared once. Shells say how they are recorded.

Ray exports them with the prefix ``ray_`` (a counter with the suffix ``_total``) and adds deployment, replica and
application where they are recorded inside a replica.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.types import Answer, DetectReply

_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Metric:
    """One metric's declaration."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    description: str
    tags: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()


IMAGES = Metric("counter", "sightline_images", "Pictures answered, by the traffic's kind", ("traffic",))
REFUSALS = Metric("counter", "sightline_refusals", "Pictures refused, by the error's code", ("code",))
DETECTIONS = Metric("counter", "sightline_detections", "Detections answered, by label: watch it for drift", ("label",))
DROPS = Metric(
    "counter", "sightline_batcher_drops", "Pictures that left the queue before the engine", ("traffic", "reason")
)
INFERENCES = Metric("counter", "sightline_inferences", "Pictures that went through the engine")
EXECUTIONS = Metric("counter", "sightline_executions", "Batches; the mean batch size is inferences by executions")
BATCH_SIZE = Metric("histogram", "sightline_batch_size", "Pictures taken together by the engine", (), _COUNTS)
QUEUE_SIZE = Metric("gauge", "sightline_queue_size", "Pictures that wait for the engine", ("traffic",))
STAGE_MS = Metric("histogram", "sightline_stage_ms", "Milliseconds a picture spends in a stage", ("stage",), _MS)
# Of one stream: gauges, all of them. Ray's node agent forgets a gauge that is no longer reported, and nothing else.
STREAM_STATE = Metric(
    "gauge", "sightline_stream_state", "1 for the state that the stream is in", ("stream_id", "state")
)
STREAM_FRAMES = Metric(
    "gauge",
    "sightline_stream_frames",
    "Frames captured, processed and dropped by reason, since the stream was created",
    ("stream_id", "outcome"),
)
STREAM_RECONNECTS = Metric(
    "gauge", "sightline_stream_reconnects", "Times that the source was opened again", ("stream_id",)
)
STREAM_AGE_MS = Metric(
    "gauge", "sightline_stream_age_ms", "Milliseconds from capture to result, median", ("stream_id",)
)


class Instrument(Protocol):
    """A metric as something that can be recorded."""

    def record(self, value: float, tags: dict[str, str]) -> None:
        """Add to a counter, set a gauge, or observe in a histogram."""


class Telemetry:
    """Records metrics through ``make``, which turns a declaration into an instrument once."""

    def __init__(self, make: Callable[[Metric], Instrument]) -> None:
        self._make = make
        self._instruments: dict[str, Instrument] = {}
        self._totals: dict[tuple[str, ...], int] = {}

    def record(self, metric: Metric, value: float = 1, **tags: str) -> None:
        """Record one value."""
        instrument = self._instruments.get(metric.name)
        if instrument is None:
            instrument = self._instruments[metric.name] = self._make(metric)
        instrument.record(value, tags)

    def record_totals(self, metric: Metric, totals: Mapping[str, int], tag: str, **tags: str) -> None:
        """Record how far each of these totals, named by the tag's value, has grown since the last call."""
        for name, total in totals.items():
            series = (metric.name, name, *tags.values())
            grown = total - self._totals.get(series, 0)
            if grown:
                self.record(metric, grown, **{tag: name}, **tags)
                self._totals[series] = total

    def answered(self, answer: Answer, traffic: str) -> None:
        """One picture or frame was answered."""
        self.record(IMAGES, traffic=traffic)
        for label, count in Counter(answer.labels).items():
            self.record(DETECTIONS, count, label=label)
        self.record(STAGE_MS, answer.timing_s["decode"] * 1e3, stage="decode")

    def inferred(self, replies: list[DetectReply]) -> None:
        """One batch went through the engine."""
        self.record(INFERENCES, len(replies))
        self.record(EXECUTIONS)
        self.record(BATCH_SIZE, len(replies))
        self.record(STAGE_MS, replies[0].inference_s * 1e3, stage="inference")
        for reply in replies:
            self.record(STAGE_MS, reply.postprocess_s * 1e3, stage="postprocess")

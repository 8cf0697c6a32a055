"""What is measured: every metric's name, meaning and tags, declared once. Shells say how they are recorded.

Ray exports them with the prefix ``ray_`` (a counter with the suffix ``_total``) and adds deployment, replica and
application where they are recorded inside a replica.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.errors import ServeAppError
from serve_app.schemas.streams import State, StreamStatus
from serve_app.types import DetectReply, Traffic, label_of

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
CROSSINGS = Metric(
    "counter", "sightline_crossings", "Frames that came from another node as bytes: it had no Detector", ("traffic",)
)
REFUSALS = Metric(
    "counter",
    "sightline_refusals",
    "Pictures and requests refused, by the error's code and the limit that was reached, if one was",
    ("code", "limit"),
)
REQUESTS = Metric(
    "counter", "sightline_requests", "Requests with an API key, by its name: admitted, or why not", ("key", "outcome")
)
KEYS_FILE_ERRORS = Metric(
    "counter", "sightline_keys_file_errors", "Failed reloads of the keys' file: it is missing or broken"
)
DETECTIONS = Metric("counter", "sightline_detections", "Detections answered, by label: watch it for drift", ("label",))
DROPS = Metric(
    "counter", "sightline_batcher_drops", "Pictures that left the queue before the engine", ("traffic", "reason")
)
MODEL_CHANGES = Metric(
    "counter", "sightline_model_changes", "Changes of a Detector while it serves: made, or refused", ("outcome",)
)
INFERENCES = Metric("counter", "sightline_inferences", "Pictures that went through the engine")
EXECUTIONS = Metric("counter", "sightline_executions", "Batches; the mean batch size is inferences by executions")
BATCH_SIZE = Metric("histogram", "sightline_batch_size", "Pictures taken together by the engine", (), _COUNTS)
QUEUE_SIZE = Metric("gauge", "sightline_queue_size", "Pictures that wait for the engine", ("traffic",))
STAGE_MS = Metric("histogram", "sightline_stage_ms", "Milliseconds a picture spends in a stage", ("stage",), _MS)
# Of one stream: gauges, all of them. Ray forgets a gauge that is recorded no more, after 20 s, and nothing else.
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
    "gauge", "sightline_stream_age_ms", "Milliseconds from capture to result, of the latest", ("stream_id",)
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

    def refused(self, error: ServeAppError) -> None:
        """Count a picture or a request whose answer is an error."""
        self.record(REFUSALS, code=error.code, limit=error.limit)

    def requested(self, key: str, outcome: str) -> None:
        """Count a request with an API key of this name."""
        self.record(REQUESTS, key=key, outcome=outcome)

    def keys_unreadable(self) -> None:
        """Count a reload of the keys' file that failed."""
        self.record(KEYS_FILE_ERRORS)

    def answered(self, reply: DetectReply, labels: Sequence[str], traffic: Traffic) -> None:
        """One picture or frame was answered. ``labels``: of each class id."""
        self.record(IMAGES, traffic=traffic)
        for class_id, count in Counter(reply.detections.class_id.tolist()).items():
            self.record(DETECTIONS, count, label=label_of(class_id, labels))
        self.record(STAGE_MS, reply.timing.queue_s * 1e3, stage="queue")

    def stream(self, status: StreamStatus, previous: State | None) -> None:
        """What a stream says of itself, and its state when it was last told; to be told every few seconds."""
        stream_id = status.stream_id
        if previous not in {None, status.state}:
            self.record(STREAM_STATE, 0, stream_id=stream_id, state=str(previous))
        self.record(STREAM_STATE, 1, stream_id=stream_id, state=status.state)
        totals = {"captured": status.captured, "processed": status.processed, **status.dropped}
        for outcome, total in totals.items():
            self.record(STREAM_FRAMES, total, stream_id=stream_id, outcome=outcome)
        self.record(STREAM_RECONNECTS, status.reconnects, stream_id=stream_id)
        if status.latest:
            self.record(STREAM_AGE_MS, status.latest.age_s * 1e3, stream_id=stream_id)

    def inferred(self, replies: list[DetectReply]) -> None:
        """One batch went through the engine."""
        self.record(INFERENCES, len(replies))
        self.record(EXECUTIONS)
        self.record(BATCH_SIZE, len(replies))
        self.record(STAGE_MS, replies[0].timing.inference_s * 1e3, stage="inference")
        for reply in replies:
            self.record(STAGE_MS, reply.timing.postprocess_s * 1e3, stage="postprocess")

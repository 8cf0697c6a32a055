"""Declare every metric with its name, description and tags, and record values through an injected backend.

Ray exports metrics with the prefix ``ray_``, and counters with the suffix ``_total``. It adds the tags deployment,
replica and application to metrics that are recorded inside a replica.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.detections import label_of
from serve_app.errors import ServeAppError
from serve_app.schemas.streams import StreamStatus
from serve_app.telemetry.figures import FigureLog, Figures
from serve_app.types import DetectReply, Traffic

_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Metric:
    """The declaration of one metric."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    description: str
    tags: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()
    in_overview: bool = False  # whether ``GET /overview`` shows it; only for metrics with a fixed set of tags


IMAGES = Metric("counter", "sightline_images", "Images answered, by kind of traffic", ("traffic",), in_overview=True)
CROSSINGS = Metric(
    "counter",
    "sightline_crossings",
    "Frames that a Detector received over the network from a node without a Detector",
    ("traffic",),
)
REFUSALS = Metric(
    "counter",
    "sightline_refusals",
    "Images and requests refused, by error code and by the limit that was reached, if any",
    ("code", "limit"),
    in_overview=True,
)
REQUESTS = Metric(
    "counter", "sightline_requests", "Requests with an API key, by the key's name and the outcome", ("key", "outcome")
)
KEYS_FILE_ERRORS = Metric(
    "counter",
    "sightline_keys_file_errors",
    "Times that the API-key file could not be reloaded, because it was missing or invalid",
)
DETECTIONS = Metric(
    "counter",
    "sightline_detections",
    "Detections returned, by label; a changed mix of labels can be a sign of data drift",
    ("label",),
)
DROPS = Metric(
    "counter", "sightline_batcher_drops", "Images that left the queue without being processed", ("traffic", "reason")
)
MODEL_CHANGES = Metric(
    "counter",
    "sightline_model_changes",
    "Changes of a running Detector's model or settings, by outcome: made or refused",
    ("outcome",),
)
INFERENCES = Metric("counter", "sightline_inferences", "Images processed by the engine", in_overview=True)
EXECUTIONS = Metric(
    "counter",
    "sightline_executions",
    "Batches run by the engine; the mean batch size is inferences / executions",
    in_overview=True,
)
BATCH_SIZE = Metric("histogram", "sightline_batch_size", "Images per batch", (), _COUNTS)
QUEUE_SIZE = Metric("gauge", "sightline_queue_size", "Images waiting for the engine", ("traffic",))
STAGE_MS = Metric(
    "histogram",
    "sightline_stage_ms",
    "Milliseconds that an image spends in a stage; total is the time from the Ingress to the answer",
    ("stage",),
    _MS,
    in_overview=True,
)
# All metrics of streams are gauges, because Ray drops a gauge 20 s after it was last recorded, but keeps other metrics.
STREAM_STATE = Metric(
    "gauge", "sightline_stream_state", "1 for the current state of the stream", ("stream_id", "state")
)
STREAM_FRAMES = Metric(
    "gauge",
    "sightline_stream_frames",
    "Frames since the stream was created; the outcome is captured, processed or the reason for a drop",
    ("stream_id", "outcome"),
)
STREAM_SCENE_HEALTH = Metric(
    "gauge",
    "sightline_stream_scene_health",
    "1 for the current state of the scene health, such as ok, covered or moved",
    ("stream_id", "state"),
)
STREAM_RECONNECTS = Metric(
    "gauge", "sightline_stream_reconnects", "Number of times that the source was reopened", ("stream_id",)
)
STREAM_AGE_MS = Metric(
    "gauge", "sightline_stream_age_ms", "Milliseconds from capture to result of the latest frame", ("stream_id",)
)
# Sources are streams and API keys, at most 512 of them.
DRIFT_PSI = Metric(
    "gauge",
    "sightline_drift_psi",
    "Population stability index of a feature against the reference of its source",
    ("model", "source", "feature"),
)
DRIFT_LOST = Metric(
    "counter",
    "sightline_drift_lost",
    "Images that drift and counts by minute do not include, by reason",
    ("reason",),
)
CLOUDWATCH_DOCUMENTS = Metric(
    "counter",
    "sightline_cloudwatch_documents",
    "Documents for CloudWatch, by outcome: sent or dropped",
    ("outcome",),
)
# No metric of jobs has the tag job_id, because there may be many jobs.
JOBS = Metric("gauge", "sightline_jobs", "Jobs that have not ended, by state", ("state",))
JOB_ITEMS = Metric(
    "gauge",
    "sightline_job_items",
    "Items of all jobs that have not ended; the state is waiting or in_flight",
    ("state",),
)
JOB_ITEMS_DONE = Metric(
    "counter",
    "sightline_job_items_done",
    "Items of jobs that are done; the outcome is succeeded or the error code",
    ("outcome",),
)
JOB_UNITS_REPEATED = Metric(
    "counter",
    "sightline_job_units_repeated",
    "Units of jobs that were begun again, because a process died or was stopped, or because something was unavailable",
)
COLLECTED_IMAGES = Metric(
    "counter", "sightline_collected_images", "Images kept for the training of the next model, by reason", ("reason",)
)
COLLECT_DROPS = Metric(
    "counter",
    "sightline_collect_drops",
    "Images that were worth a look but were not kept for training, by reason",
    ("reason",),
)

MQTT_MESSAGES = Metric(
    "counter",
    "sightline_mqtt_messages",
    "Messages to the broker of mqtt.url that were sent, or were superseded by a newer one before they were sent; "
    "failed counts lost connections and failed attempts to connect",
    ("outcome",),
)


class Instrument(Protocol):
    """A metric that can be recorded."""

    def record(self, value: float, tags: dict[str, str]) -> None:
        """Add a value to a counter, set a gauge, or observe a value in a histogram."""


class Telemetry:
    """The recorder of all metrics. ``make`` is called once for each metric, and returns the metric's instrument."""

    def __init__(self, make: Callable[[Metric], Instrument]) -> None:
        self._make = make
        self._instruments: dict[str, Instrument] = {}
        self._totals: dict[tuple[str, ...], int] = {}
        self._log = FigureLog()

    def record(self, metric: Metric, value: float = 1, **tags: str) -> None:
        """Record one value of a metric."""
        instrument = self._instruments.get(metric.name)
        if instrument is None:
            instrument = self._instruments[metric.name] = self._make(metric)
        instrument.record(value, tags)
        if metric.in_overview:
            self._log.add(metric, value, tags)

    def figures(self) -> Figures:
        """Return the metrics of this process that ``GET /overview`` shows."""
        return self._log.figures()

    def record_totals(self, metric: Metric, totals: Mapping[str, int], tag: str, **tags: str) -> None:
        """Record how much each total has grown since the last call.

        ``tag`` is the name of a tag. The tag's value is the total's name.
        """
        for name, total in totals.items():
            series = (metric.name, name, *tags.values())
            grown = total - self._totals.get(series, 0)
            if grown:
                self.record(metric, grown, **{tag: name}, **tags)
                self._totals[series] = total

    def refused(self, error: ServeAppError) -> None:
        """Count an image or a request that was answered with an error."""
        self.record(REFUSALS, code=error.code, limit=error.limit)

    def requested(self, key: str, outcome: str) -> None:
        """Count a request whose API key has this name."""
        self.record(REQUESTS, key=key, outcome=outcome)

    def keys_reload_failed(self) -> None:
        """Count a failed reload of the API-key file."""
        self.record(KEYS_FILE_ERRORS)

    def answered(self, reply: DetectReply, labels: Sequence[str], traffic: Traffic) -> None:
        """Count an image or frame that was answered. ``labels`` are in the order of the class ids."""
        self.record(IMAGES, traffic=traffic)
        for class_id, count in Counter(reply.detections.counted_class_id.tolist()).items():
            self.record(DETECTIONS, count, label=label_of(class_id, labels))
        self.record(STAGE_MS, reply.timing.queue_s * 1e3, stage="queue")

    def stream(self, status: StreamStatus, previous: StreamStatus | None) -> None:
        """Record a stream's status. ``previous`` is the status at the last call, if any.

        Call this every few seconds, because Ray drops gauges that are not recorded again.
        """
        stream_id = status.stream_id
        if previous is not None and previous.state != status.state:
            self.record(STREAM_STATE, 0, stream_id=stream_id, state=previous.state)
        self.record(STREAM_STATE, 1, stream_id=stream_id, state=status.state)
        health, before = status.scene_health, previous.scene_health if previous else None
        if before is not None and (health is None or health.state != before.state):
            self.record(STREAM_SCENE_HEALTH, 0, stream_id=stream_id, state=before.state)
        if health is not None:
            self.record(STREAM_SCENE_HEALTH, 1, stream_id=stream_id, state=health.state)
        totals = {"captured": status.captured, "processed": status.processed, **status.dropped}
        for outcome, total in totals.items():
            self.record(STREAM_FRAMES, total, stream_id=stream_id, outcome=outcome)
        self.record(STREAM_RECONNECTS, status.reconnects, stream_id=stream_id)
        if status.latest:
            self.record(STREAM_AGE_MS, status.latest.age_s * 1e3, stream_id=stream_id)

    def published(self, outcome: str) -> None:
        """Count a message to the broker of ``mqtt.url``, or a failure of the connection to it."""
        self.record(MQTT_MESSAGES, outcome=outcome)

    def jobs(self, jobs: Mapping[str, int], items: Mapping[str, int]) -> None:
        """Record the numbers of jobs by state, and of their items by state.

        Call this every few seconds, because Ray drops gauges that are not recorded again.
        """
        for state, count in jobs.items():
            self.record(JOBS, count, state=state)
        for state in ("waiting", "in_flight"):
            self.record(JOB_ITEMS, items.get(state, 0), state=state)

    def collected(self, kept: Mapping[str, int], drops: Mapping[str, int]) -> None:
        """Count the images that a collector has kept or dropped since the last call. Both map reasons to totals."""
        self.record_totals(COLLECTED_IMAGES, kept, "reason")
        self.record_totals(COLLECT_DROPS, drops, "reason")

    def inferred(self, replies: list[DetectReply]) -> None:
        """Count a batch that went through the engine."""
        self.record(INFERENCES, len(replies))
        self.record(EXECUTIONS)
        self.record(BATCH_SIZE, len(replies))
        self.record(STAGE_MS, replies[0].timing.inference_s * 1e3, stage="inference")
        for reply in replies:
            self.record(STAGE_MS, reply.timing.postprocess_s * 1e3, stage="postprocess")

"""Tests of the figures that ``GET /overview`` shows."""

from __future__ import annotations

import pickle

import numpy as np

from serve_app.detections import Detections
from serve_app.errors import NotFound, Overloaded
from serve_app.schemas.models import ModelStatus
from serve_app.telemetry import metrics
from serve_app.telemetry.figures import WINDOW_S, FigureLog, Figures, combined
from serve_app.telemetry.metrics import EXECUTIONS, INFERENCES, REFUSALS, STAGE_MS, Metric, Telemetry
from serve_app.telemetry.overview import ModelFigures, ServiceFigures
from serve_app.types import DetectReply, Timing
from tests.support.instruments import FakeInstrument

UNBOUNDED_TAGS = {"key", "label", "stream_id", "model", "source", "feature"}


def test_only_metrics_with_few_series_are_kept() -> None:
    kept = [value for value in vars(metrics).values() if isinstance(value, Metric) and value.in_overview]
    assert kept
    assert not UNBOUNDED_TAGS & {tag for metric in kept for tag in metric.tags}
    assert all((metric.kind == "histogram") == bool(metric.buckets) for metric in kept)
    assert all(metric.kind != "gauge" for metric in kept)


def test_rates_and_means_are_those_of_the_last_ten_whole_seconds() -> None:
    now_s = [100.0]
    log = FigureLog(lambda: now_s[0])
    images, queue = (INFERENCES.name,), (STAGE_MS.name, "queue")
    for second in range(20):
        now_s[0] = 100.0 + second
        log.add(INFERENCES, 2 if second < 10 else 4, {})
        log.add(STAGE_MS, second, {"stage": "queue"})
    now_s[0] = 119.9
    figures = log.figures()
    assert figures.per_s(images) == (2 + 9 * 4) / WINDOW_S  # seconds 9 to 18, because second 19 is not over
    assert figures.mean(queue) == sum(range(9, 19)) / 10
    assert figures.counts[images] == 10 * 2 + 10 * 4
    now_s[0] = 140.0
    assert (log.figures().per_s(images), log.figures().mean(queue)) == (0, None)
    assert log.figures().counts[images] == 60


def test_a_value_on_a_bound_is_in_the_bucket_below_as_in_prometheus() -> None:
    log = FigureLog()
    for value in (0.5, 1.0, 1.1, 60_000, 60_001):
        log.add(STAGE_MS, value, {"stage": "decode"})
    counts = log.figures().histograms[STAGE_MS.name, "decode"]
    assert len(counts) == len(STAGE_MS.buckets) + 1
    assert (counts[0], counts[1], counts[-2], counts[-1]) == (2, 1, 1, 1)


def test_the_figures_of_replicas_are_added() -> None:
    one = Figures({("a",): 1}, {("h",): (1, 2)}, {("a",): 1}, {("a",): 5.0})
    two = Figures({("a",): 2, ("b",): 3}, {("h",): (1, 0), ("i",): (4,)}, {("a",): 1}, {("a",): 7.0})
    both = combined(pickle.loads(pickle.dumps([one, two])))
    assert (both.counts, both.histograms) == ({("a",): 3, ("b",): 3}, {("h",): (2, 2), ("i",): (4,)})
    assert both.mean(("a",)) == 6.0
    assert combined([]).per_s(("a",)) == 0


def telemetry() -> Telemetry:
    return Telemetry(lambda metric: FakeInstrument(metric, []))


def test_an_overview_has_the_batches_and_delays_of_a_model() -> None:
    now_s = [10.0]
    detector = telemetry()
    detector._log = FigureLog(lambda: now_s[0])
    found = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    reply = DetectReply(found, Timing(queue_s=0.004, inference_s=0.02))
    detector.inferred([reply] * 3)
    detector.inferred([reply])
    for _ in range(4):
        detector.answered(reply, [], "interactive")
    now_s[0] = 11.0
    status = ModelStatus(name="default", state="ready")
    shown = ServiceFigures([ModelFigures(status, 1, detector.figures())], Figures(), None).overview().models[0]
    assert (shown.images, shown.batches, shown.mean_batch_size, shown.queue_delay_ms) == (4, 2, 2.0, 4.0)
    assert shown.images_per_s == 0.4
    assert {name: sum(stage.counts) for name, stage in shown.stages.items()} == {
        "queue": 4,
        "inference": 2,
        "postprocess": 4,
    }
    assert EXECUTIONS.in_overview


def test_refusals_are_shown_by_code_and_limit_the_most_frequent_first() -> None:
    ingress = telemetry()
    for _ in range(2):
        ingress.refused(Overloaded("followers: too many", limit="followers"))
    ingress.refused(NotFound("no such route"))
    ingress.requested("dock", "admitted")
    figures = ingress.figures()
    assert {series[0] for series in figures.counts} == {REFUSALS.name}
    shown = ServiceFigures([], figures, {"Ingress": 2}).overview()
    assert [(one.code, one.limit, one.count) for one in shown.refusals] == [
        ("overloaded", "followers", 2),
        ("not_found", "", 1),
    ]
    assert shown.replicas == {"Ingress": 2}

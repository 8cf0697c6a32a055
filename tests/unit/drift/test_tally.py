"""Tests of what one process counts and measures."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.drift import tally as module
from serve_app.drift.bins import images_in
from serve_app.drift.tally import Report, Tally, source_of, tenants_of
from serve_app.images.letterbox import letterbox
from serve_app.types import InputShape, Traffic
from tests.support import tasks
from tests.support.drift import answer

FRAME = np.empty(InputShape.square(64).array, np.uint8)
FITTED = letterbox(np.full((48, 64, 3), 100, np.uint8), FRAME)


class Clock:
    now_s = 7 * 3600.0

    def __call__(self) -> float:
        return self.now_s


def add(
    tally: Tally, *class_ids: int, traffic: Traffic = "interactive", tenant: str = "dock", version: str = "v1"
) -> None:
    tally.add("default", version, traffic, tenant, FRAME, FITTED, answer(*class_ids))


def taken(tally: Tally) -> Report:
    report = tally.take("reporter", 0)
    assert report is not None
    return report


def test_sources_are_named_by_kind() -> None:
    assert source_of("stream", "gate") == "stream/gate"
    assert source_of("interactive", "dock") == "key/dock"
    assert source_of("interactive", "") == "http"
    assert source_of("job", "night-28") == "jobs"


def test_every_image_is_counted_by_minute_and_label() -> None:
    clock = Clock()
    tally = Tally(clock_s=clock)
    for _ in range(3):
        add(tally, 0, 0, 1)
        clock.now_s += 30
    counts = [(one.source, one.minute, one.images, dict(one.detections)) for one in taken(tally).minutes]
    assert counts == [
        ("key/dock", 420, 2, {"class 0": 4, "class 1": 2}),
        ("key/dock", 421, 1, {"class 0": 2, "class 1": 1}),
    ]


def test_every_image_of_a_client_is_measured_and_a_stream_every_five_seconds() -> None:
    clock = Clock()
    tally = Tally(clock_s=clock)
    for _ in range(10):
        add(tally)
        add(tally, traffic="stream", tenant="gate")
        clock.now_s += 1
    seen = {one.source: images_in(one.counts) for one in taken(tally).seen}
    assert seen == {"key/dock": 10, "stream/gate": 2}


def test_a_clock_that_is_set_back_does_not_stop_the_measuring_of_a_stream() -> None:
    clock = Clock()
    tally = Tally(clock_s=clock)
    add(tally, traffic="stream", tenant="gate")
    clock.now_s -= 3600
    add(tally, traffic="stream", tenant="gate")
    assert [images_in(one.counts) for one in taken(tally).seen] == [1, 1]  # in two hours


def test_nothing_is_measured_if_drift_is_disabled() -> None:
    tally = Tally(measures=False)
    add(tally, 0)
    report = taken(tally)
    assert (report.seen, report.minutes[0].images) == ((), 1)


def test_hours_and_versions_are_apart() -> None:
    clock = Clock()
    tally = Tally(clock_s=clock)
    add(tally, 3)
    add(tally, version="v2")
    clock.now_s += 3600
    add(tally)
    assert [(one.version, one.hour) for one in taken(tally).seen] == [("v1", 7), ("v2", 7), ("v1", 8)]


def test_labels_are_those_of_the_classes_seen() -> None:
    tally = Tally()
    add(tally, 3)
    assert taken(tally).seen[0].labels == {3: "class 3"}


def test_a_report_has_only_what_is_new() -> None:
    tally = Tally()
    add(tally)
    assert taken(tally).seen
    assert tally.take("reporter", 1) is None


def test_further_sources_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SOURCES", 2)
    tally = Tally()
    for number in range(5):
        add(tally, tenant=str(number))
    assert {one.source: one.images for one in taken(tally).minutes} == {"key/0": 1, "key/1": 1, "other": 3}


def test_a_full_tally_says_how_many_images_it_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_MINUTES", 2)
    clock = Clock()
    tally = Tally(clock_s=clock)
    for _ in range(5):
        add(tally)
        clock.now_s += 60
    report = taken(tally)
    assert (len(report.minutes), report.lost) == (2, 3)


def test_further_labels_of_a_minute_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LABELS", 2)
    tally = Tally(clock_s=Clock())
    add(tally, 0, 1, 2, 3)
    add(tally, 0, 4)
    assert taken(tally).minutes[0].detections == {"class 0": 2, "class 1": 1, "other": 3}


def test_the_tenants_of_a_kind_of_traffic_are_found_in_the_names_of_sources() -> None:
    sources = {"stream/lot", "key/dock", "http", "jobs", "all", "other"}
    assert tenants_of("interactive", sources) == {"dock", ""}
    assert tenants_of("stream", sources) == {"lot"}
    assert tenants_of("interactive", {"stream/lot"}) == frozenset()


def test_images_that_are_classified_are_counted_by_their_label() -> None:
    tally = Tally()
    tally.add("default", "v1", "interactive", "dock", FRAME, FITTED, tasks.answer(tasks.classified()))
    report = taken(tally)
    assert [(each.images, dict(each.detections)) for each in report.minutes] == [(1, {"dog": 1})]
    assert report.seen[0].labels == {1: "dog"}

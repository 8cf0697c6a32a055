"""Tests of the monitor and its store."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from serve_app.drift.answers import histograms_of, report_of
from serve_app.drift.monitor import Monitor
from serve_app.drift.reference import Reference
from serve_app.drift.store import FILE, DriftStore
from serve_app.drift.tally import MinuteCounts
from serve_app.errors import InvalidParameter, NotFound, Unavailable
from tests.support.drift import ARGS, HOUR_S, images, opened, report

NOON = 12
NOW_S = 12 * HOUR_S + 60.0
MINUTE = 12 * 60  # the minute before


def feed(monitor: Monitor, first: int, count: int, *, source: str = "key/dock", brightness: float = 120) -> None:
    for number in range(count):
        monitor.apply(report(first + number, images(50, brightness=brightness), source=source), NOW_S)


def test_a_repeated_report_counts_once(store: DriftStore) -> None:
    monitor = Monitor(store, ARGS)
    for _ in range(3):
        monitor.apply(report(0, images(50)), NOW_S)
    monitor.apply(report(0, images(50), reporter="another"), NOW_S)
    assert monitor.find("default", "stream/gate").reference.images == 100


def test_a_repeated_report_counts_once_after_a_restart(tmp_path: Path) -> None:
    monitor, store = opened(tmp_path)
    minutes = (MinuteCounts("default", "key/dock", MINUTE, 50, Counter(person=50)),)
    monitor.apply(report(0, images(50), source="key/dock", minutes=minutes), NOW_S)
    monitor.save(NOW_S)
    store.close()  # without an answer to the report
    monitor, store = opened(tmp_path)
    monitor.apply(report(0, images(50), source="key/dock", minutes=minutes), NOW_S)
    assert monitor.find("default", "key/dock").reference.images == 50
    assert [(one.images, one.detections) for one in monitor.finished_minutes(MINUTE + 1)] == [(50, {"person": 50})]
    store.close()


def test_what_was_not_saved_is_reported_again_and_counts_once(tmp_path: Path) -> None:
    monitor, store = opened(tmp_path)
    monitor.apply(report(0, images(50), source="key/dock"), NOW_S)
    store.close()  # killed before it has saved
    monitor, store = opened(tmp_path)
    monitor.apply(report(0, images(50), source="key/dock"), NOW_S)
    assert monitor.find("default", "key/dock").reference.images == 50
    store.close()


def test_references_windows_and_drift_survive_restarts(tmp_path: Path) -> None:
    monitor, store = opened(tmp_path)
    for number in range(8 + 4 + 4):
        monitor.apply(report(number, images(50, brightness=30 if number >= 12 else 120), source="key/dock"), NOW_S)
        monitor.save(NOW_S)
        before = report_of(monitor)
        store.close()
        monitor, store = opened(tmp_path)
        assert report_of(monitor) == before
    (one,) = report_of(monitor)
    assert (one.state, one.drifting, one.version) == ("drifting", ["brightness"], "v1")
    store.close()


def test_the_notice_of_a_drift_is_returned_once_and_again_for_the_repeated_report(store: DriftStore) -> None:
    monitor = Monitor(store, ARGS)
    feed(monitor, 0, 12)
    notices = [
        monitor.apply(report(12 + number, images(50, brightness=30), source="key/dock"), NOW_S) for number in range(4)
    ]
    (notice,) = [notice for each in notices for notice in each]
    assert (notice.source, notice.change, notice.features) == ("key/dock", "began", ("brightness",))
    number = next(number for number, each in enumerate(notices) if each)
    if number == 3:
        assert monitor.apply(report(15, images(50), source="key/dock"), NOW_S) == [notice]


def test_a_changed_model_begins_a_new_reference(tmp_path: Path) -> None:
    monitor, store = opened(tmp_path)
    feed(monitor, 0, 12)
    monitor.apply(report(12, images(50), source="key/dock", version="v2"), NOW_S)
    monitor.apply(report(13, images(50), source="key/dock", version="v1"), NOW_S)  # a process that has the old model
    monitor.save(NOW_S)
    store.close()
    monitor, store = opened(tmp_path)
    watched = monitor.find("default", "key/dock")
    assert (watched.version, watched.reference.images, watched.state) == ("v2", 50, "learning")
    store.close()


def test_a_stream_has_a_reference_for_each_hour_and_other_sources_have_one(store: DriftStore) -> None:
    monitor = Monitor(store, ARGS)
    for number, source in enumerate(("stream/gate", "key/dock", "http", "jobs")):
        monitor.apply(report(number, images(50), source=source), NOW_S)
    assert [watched.reference.is_by_hour for watched in monitor.sources.values()] == [True, False, False, False]


def test_sources_beyond_the_limit_are_counted_together(store: DriftStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.drift.monitor.MAX_SOURCES", 2)
    monitor = Monitor(store, ARGS)
    for number in range(5):
        monitor.apply(report(number, images(50), source=f"stream/{number}"), NOW_S)
    assert [source for _, source in monitor.sources] == ["stream/0", "stream/1", "other"]
    assert monitor.find("default", "other").reference.images == 150


def test_a_range_of_time_becomes_the_reference(tmp_path: Path) -> None:
    monitor, store = opened(tmp_path)
    for hour in range(30):
        dark = images(50, brightness=40 if hour < 24 else 120)
        monitor.apply(report(hour, dark, source="key/dock", hour=hour), hour * HOUR_S)
        monitor.save(hour * HOUR_S)
    store.close()
    monitor, store = opened(tmp_path)
    monitor.set_reference_of_hours("default", "key/dock", 24 * HOUR_S, 30 * HOUR_S, NOW_S)
    monitor.save(NOW_S)
    store.close()
    monitor, store = opened(tmp_path)
    reference = monitor.find("default", "key/dock").reference
    assert (reference.images, reference.is_set, reference.learns(3)) == (300, True, False)
    with pytest.raises(InvalidParameter, match="50 images are too few"):
        monitor.set_reference_of_hours("default", "key/dock", 29 * HOUR_S, 30 * HOUR_S, NOW_S)
    with pytest.raises(NotFound):
        monitor.set_reference_of_hours("default", "key/yard", 0, HOUR_S, NOW_S)
    store.close()


def test_a_new_reference_ends_a_drift(store: DriftStore) -> None:
    monitor = Monitor(store, ARGS)
    feed(monitor, 0, 12)
    feed(monitor, 12, 4, brightness=30)
    notice = monitor.set_reference(
        "default", "key/dock", Reference.of_blocks([(0, images(200, brightness=30))], window_images=100), NOW_S
    )
    assert notice is not None
    assert (notice.change, notice.features) == ("ended", ())


def test_a_report_that_arrives_late_adds_to_a_minute_that_was_taken(store: DriftStore) -> None:
    monitor = Monitor(store, ARGS)
    for number in range(2):
        counts = MinuteCounts("default", "jobs", MINUTE, 3, Counter(car=number + 1))
        monitor.apply(report(number, images(1), minutes=(counts,)), NOW_S)
        monitor.save(NOW_S)
        assert [one.detections["car"] for one in monitor.finished_minutes(MINUTE + 1)] == [number + 1]
        monitor.forget_minutes(MINUTE + 1)
    assert monitor.finished_minutes(MINUTE + 1) == []


def test_old_sources_hours_and_minutes_are_forgotten(store: DriftStore) -> None:
    monitor = Monitor(store, ARGS)
    monitor.apply(report(0, images(50), minutes=(MinuteCounts("default", "jobs", MINUTE, 3),)), NOW_S)
    monitor.save(NOW_S)
    later_s = NOW_S + 40 * 24 * HOUR_S
    monitor.apply(report(1, images(50), source="key/dock", hour=int(later_s // HOUR_S)), later_s)
    for _ in range(2):
        monitor.save(later_s)
        later_s += 2 * HOUR_S
    assert [source for _, source in monitor.sources] == ["key/dock"]
    assert monitor.finished_minutes(10**9) == []
    assert list(store.minutes()) == []
    assert {source for _, source, _, _ in store.parts()} == {"key/dock"}
    assert store.hours("default", "stream/gate", "v1", 0, 10**9) == []


def test_a_clock_that_was_a_year_ahead_stops_neither_the_forgetting_nor_a_model(store: DriftStore) -> None:
    monitor = Monitor(store, ARGS)
    year_s = 365 * 24 * HOUR_S
    feed(monitor, 0, 1)
    monitor.apply(report(1, images(50), source="key/dock", version="v2"), NOW_S + year_s)
    monitor.save(NOW_S + year_s)
    for number in range(2, 10):  # the clock is right again, and so is the model
        at_s = NOW_S + number * HOUR_S
        monitor.apply(report(number, images(50), source="key/dock", hour=int(at_s // HOUR_S)), at_s)
        monitor.save(at_s)
    assert monitor.find("default", "key/dock").version == "v1"
    assert len(monitor._hours) < 5


def test_nothing_drifts_while_drift_is_disabled_and_references_are_kept(tmp_path: Path) -> None:
    monitor, store = opened(tmp_path)
    feed(monitor, 0, 12)
    feed(monitor, 12, 4, brightness=30)
    monitor.save(NOW_S)
    before = report_of(monitor)
    assert monitor.drifting() == {"key/dock"}
    disabled = Monitor(store, ARGS.model_copy(update={"enabled": False}))
    disabled.load()
    disabled.apply(report(16, images(50), source="key/dock", version="v2"), NOW_S)  # from a process that ends soon
    disabled.save(NOW_S)
    assert (disabled.drifting(), report_of(disabled)) == (frozenset(), [])
    store.close()
    monitor, store = opened(tmp_path)
    assert report_of(monitor) == before
    store.close()


def test_all_sources_of_a_model_together_have_figures(store: DriftStore) -> None:
    monitor = Monitor(store, ARGS)
    feed(monitor, 0, 12)
    feed(monitor, 12, 12, source="http")
    assert monitor.compare_together(NOW_S) == []
    assert [(one.source, one.state) for one in report_of(monitor)] == [
        ("all", "steady"),
        ("http", "steady"),
        ("key/dock", "steady"),
    ]
    histograms = histograms_of(monitor, "default", "all")
    assert sum(histograms.features["classes"].current) == pytest.approx(1)
    assert histograms.features["classes"].bins[:2] == ["person", "car"]
    with pytest.raises(NotFound):
        histograms_of(monitor, "plates", "all")


def test_only_one_process_has_the_store(tmp_path: Path, store: DriftStore) -> None:
    assert not DriftStore(tmp_path).acquire()


def test_a_damaged_file_is_kept_and_the_monitor_starts_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    monitor, store = opened(tmp_path)
    assert monitor.sources == {}
    assert "drift.damaged" in caplog.text
    assert (tmp_path / "drift.damaged").read_bytes().startswith(b"not a database")
    store.close()


def test_a_file_that_is_damaged_in_the_middle_is_kept_and_the_monitor_starts_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor, store = opened(tmp_path)
    feed(monitor, 0, 12)
    monitor.save(NOW_S)
    store.close()
    data = bytearray((tmp_path / FILE).read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 512] = b"\xff" * 512
    (tmp_path / FILE).write_bytes(data)
    monitor, store = opened(tmp_path)
    assert monitor.sources == {}
    assert "drift.damaged" in caplog.text
    monitor.apply(report(20, images(50)), NOW_S)
    monitor.save(NOW_S)
    store.close()


def test_a_file_that_becomes_damaged_is_an_expected_error(store: DriftStore) -> None:
    with pytest.raises(Unavailable, match="cannot be written"), store.transaction():
        raise sqlite3.DatabaseError("database disk image is malformed")


def test_a_damaged_source_starts_again_and_the_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor, store = opened(tmp_path)
    feed(monitor, 0, 1)
    feed(monitor, 1, 1, source="http")
    monitor.save(NOW_S)
    with store.transaction():
        store.put_parts("default", "http", {"window": b"{}\ngarbage"})
    store.close()
    monitor, store = opened(tmp_path)
    assert [source for _, source in monitor.sources] == ["key/dock"]
    assert "drift of http in default cannot be read" in caplog.text
    store.close()

"""Tests of what the monitor says, and forgets, when a stream is deleted, a model changes or a reference is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.drift.answers import report_of
from serve_app.drift.monitor import Monitor
from serve_app.drift.reference import Reference
from serve_app.drift.store import DriftStore
from serve_app.errors import Unavailable
from tests.support.drift import ARGS, HOUR_S, images, opened, report

NOW_S = 12 * HOUR_S + 60.0
GATE = "stream/gate"


def drifting(folder: Path) -> tuple[Monitor, DriftStore]:
    """Return the monitor of a stream that drifts, after 16 reports."""
    monitor, store = opened(folder)
    for number in range(16):
        monitor.apply(report(number, images(50, brightness=120 if number < 12 else 30)), NOW_S)
    monitor.save(NOW_S)
    assert monitor.drifting() == {GATE}
    return monitor, store


def test_a_deleted_stream_is_forgotten_with_its_histograms(tmp_path: Path) -> None:
    monitor, store = drifting(tmp_path)
    monitor.apply(report(16, images(50), source="key/dock"), NOW_S)
    (notice,) = monitor.forget(GATE, NOW_S)
    assert (notice.source, notice.change, notice.features) == (GATE, "ended", ())
    monitor.save(NOW_S)
    store.close()
    monitor, store = opened(tmp_path)
    assert [one.source for one in report_of(monitor)] == ["key/dock"]
    assert store.hours("default", GATE, "v1", 0, 10**9) == []
    assert store.hours("default", "key/dock", "v1", 0, 10**9) != []
    assert monitor.forget(GATE, NOW_S) == []
    monitor.apply(report(17, images(50)), NOW_S)  # another stream with this id
    assert monitor.find("default", GATE).reference.images == 50
    monitor.save(NOW_S)
    store.close()


def test_streams_that_come_and_go_leave_room_for_others(store: DriftStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.drift.monitor.MAX_SOURCES", 2)
    monitor = Monitor(store, ARGS)
    for number in range(5):
        monitor.apply(report(number, images(50), source=f"stream/{number}"), NOW_S)
        assert f"stream/{number}" in {source for _, source in monitor.sources}
        monitor.forget(f"stream/{number}", NOW_S)


def test_a_changed_model_ends_a_drift(tmp_path: Path) -> None:
    monitor, store = drifting(tmp_path)
    (notice,) = monitor.apply(report(16, images(50), version="v2"), NOW_S)
    assert (notice.change, notice.features, notice.since_at_s) == ("ended", (), None)
    store.close()


def test_a_stream_learns_from_its_next_report_that_a_new_reference_has_ended_its_drift(tmp_path: Path) -> None:
    monitor, store = drifting(tmp_path)
    dark = Reference.of_blocks([(0, images(200, brightness=30))], window_images=100)
    ended = monitor.set_reference("default", GATE, dark, NOW_S)
    assert ended is not None
    assert monitor.apply(report(0, images(50), source="key/dock", reporter="other"), NOW_S) == []
    (late,) = monitor.apply(report(16, images(50, brightness=30)), NOW_S)
    assert (late.change, late.source, late.is_published) == ("ended", GATE, True)
    assert monitor.apply(report(17, images(50, brightness=30)), NOW_S) == []
    store.close()


def test_a_reference_that_cannot_be_stored_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, store = drifting(tmp_path)
    before = report_of(monitor)
    assert store._connection is not None
    store._connection.execute("PRAGMA query_only = 1")
    dark = Reference.of_blocks([(0, images(200, brightness=30))], window_images=100)
    with pytest.raises(Unavailable):
        monitor.set_reference("default", GATE, dark, NOW_S)
    assert report_of(monitor) == before
    store._connection.execute("PRAGMA query_only = 0")
    assert monitor.apply(report(16, images(0)), NOW_S) == []
    monitor.save(NOW_S)
    store.close()
    monitor, store = opened(tmp_path)
    assert report_of(monitor) == before
    store.close()


def test_the_drift_of_all_sources_together_begins_once_although_the_monitor_restarts(tmp_path: Path) -> None:
    monitor, store = drifting(tmp_path)
    notices = [notice for _ in range(3) for notice in monitor.compare_together(NOW_S)]
    assert [(one.source, one.change) for one in notices] == [("all", "began")]
    monitor.save(NOW_S)
    store.close()
    monitor, store = opened(tmp_path)
    assert [notice for _ in range(3) for notice in monitor.compare_together(NOW_S)] == []
    assert report_of(monitor)[0].state == "drifting"
    monitor.forget(GATE, NOW_S)
    (ended,) = monitor.compare_together(NOW_S)
    assert (ended.source, ended.change) == ("all", "ended")
    monitor.save(NOW_S)
    store.close()
    monitor, store = opened(tmp_path)
    assert report_of(monitor) == []
    store.close()

"""Tests of the reports of a process."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serve_app.drift.notices import Notice
from serve_app.drift.reporter import Reporter
from serve_app.drift.tally import Report, Tally
from serve_app.errors import Unavailable
from serve_app.images.letterbox import letterbox
from serve_app.types import InputShape
from tests.support.drift import answer
from tests.support.fake_replicas import model_info

pytestmark = pytest.mark.anyio

FRAME = np.empty(InputShape.square(64).array, np.uint8)
FITTED = letterbox(np.full((48, 64, 3), 100, np.uint8), FRAME)
NOTICE = Notice("default", "key/dock", "began", ("area",), {"area": 1.0}, 7.0, 7.0)


class FakeMonitor:
    """A monitor that fails as often as a test wants."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.reports: list[Report] = []
        self.arrived = asyncio.Event()

    async def report(self, report: Report) -> list[Notice]:
        self.reports.append(report)
        if self.failures:
            raise self.failures.pop(0)
        self.arrived.set()
        return [NOTICE]

    @property
    def images(self) -> dict[tuple[str, int], int]:
        return {(one.reporter, one.number): sum(minute.images for minute in one.minutes) for one in self.reports}


def observe(reporter: Reporter, count: int = 1) -> None:
    for _ in range(count):
        reporter.observe("default", model_info("dog"), "interactive", "dock", FRAME, FITTED, answer(0))


async def test_what_is_seen_is_reported() -> None:
    monitor, notices = FakeMonitor(), list[Notice]()
    reporter = Reporter(Tally(), monitor.report, on_notice=notices.append, interval_s=0.01)
    observe(reporter, 3)
    await asyncio.wait_for(monitor.arrived.wait(), 30)
    await reporter.close()
    assert list(monitor.images.values()) == [3]
    assert notices == [NOTICE]


async def test_a_failed_report_is_repeated_unchanged_and_what_follows_is_in_the_next() -> None:
    monitor = FakeMonitor(Unavailable("it restarts"), TimeoutError(), RuntimeError("Ray"))
    reporter = Reporter(Tally(), monitor.report, interval_s=0.01)
    observe(reporter, 3)
    while len(monitor.reports) < 2:
        await asyncio.sleep(0.01)
    observe(reporter, 2)
    await asyncio.wait_for(monitor.arrived.wait(), 30)
    await reporter.close()
    assert list(monitor.images.values()) == [3, 2]
    assert len({report.reporter for report in monitor.reports}) == 1


async def test_a_process_that_stops_reports_the_rest() -> None:
    monitor = FakeMonitor()
    reporter = Reporter(Tally(), monitor.report, interval_s=3600)
    observe(reporter, 3)
    await reporter.close()
    assert list(monitor.images.values()) == [3]


async def test_a_process_stops_although_the_monitor_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.drift.reporter._CLOSE_TIMEOUT_S", 0.01)

    async def never(report: Report) -> list[Notice]:
        await asyncio.Event().wait()
        return []

    reporter = Reporter(Tally(), never, interval_s=3600)
    observe(reporter)
    await asyncio.wait_for(reporter.close(), 30)


async def test_an_image_that_cannot_be_measured_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    reporter = Reporter(Tally(), FakeMonitor().report)
    for _ in range(2):
        reporter.observe("default", model_info("dog"), "interactive", "", FRAME[:0], FITTED, answer(0))
    await reporter.close()
    assert caplog.text.count("could not be measured") == 1

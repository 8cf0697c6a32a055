from __future__ import annotations

import pytest

from serve_app.streams.capture.timestamps import Timestamps
from tests.support.clock import Clock


@pytest.mark.parametrize("leap_s", [3600.0, -3600.0, -2.0])
def test_time_stamps_that_leap_are_one_frame_further(leap_s: float) -> None:
    stamps = Timestamps(10.0, Clock(100.0))
    passed = [stamps.passed_s(5 + 0.1 * n + (leap_s if n >= 3 else 0.0)) for n in range(6)]
    assert passed == [pytest.approx(0.1 * n) for n in range(6)]


def test_frames_may_be_rare() -> None:
    clock = Clock(100.0)
    stamps = Timestamps(None, clock)
    assert stamps.passed_s(0.0) == 0.0
    clock.now_s += 60
    assert stamps.passed_s(60.0) == 60.0
    rare = Timestamps(1 / 60, clock)
    assert [rare.passed_s(stamp) for stamp in (0.0, 60.0, 120.0)] == [0.0, 60.0, 120.0]


def test_frames_without_time_stamps_are_as_old_as_they_are_here() -> None:
    clock = Clock(100.0)
    stamps = Timestamps(25.0, clock)
    clock.now_s += 3
    assert stamps.passed_s(None) == 3.0

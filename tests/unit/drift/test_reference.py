"""Tests of references and windows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from serve_app.drift.bins import FEATURES, SLICES, images_in
from serve_app.drift.reference import Reference
from serve_app.drift.window import Window
from tests.support.drift import images

NAMES = [feature.name for feature in FEATURES]


def learned(reference: Reference, hour: int, count: int, brightness: float = 120) -> None:
    for number in range(count // 20):
        reference.learn(hour, images(20 + number % 2, brightness=brightness))


def test_each_hour_of_the_day_learns_its_own_images() -> None:
    reference = Reference(by_hour=True, images=200, window_images=50)
    learned(reference, 12, 240)
    assert (reference.learns(12), reference.learns(13), reference.complete_hours) == (False, True, [12])
    learned(reference, 36 + 1, 240, brightness=30)  # hours since the epoch count, too
    assert reference.complete_hours == [12, 13]
    day, night = (reference.expected({hour: 10})[SLICES["brightness"]].argmax() for hour in (12, 13))
    assert day > night


def test_http_traffic_learns_all_hours_together() -> None:
    reference = Reference(by_hour=False, images=200, window_images=50)
    learned(reference, 12, 100)
    assert reference.images_missing(13) == 200 - reference.images
    learned(reference, 13, 140)
    assert not any(reference.learns(hour) for hour in range(24))


def test_the_expectation_has_the_hours_of_the_window() -> None:
    reference = Reference(by_hour=True, images=200, window_images=50)
    learned(reference, 12, 240, brightness=200)
    learned(reference, 0, 240, brightness=40)
    expected = reference.expected(Counter({12: 75, 0: 25}))[SLICES["brightness"]]
    assert expected[8:].sum() / expected.sum() == pytest.approx(0.75)


def test_the_noise_is_high_where_blocks_differ() -> None:
    steady = Reference(by_hour=False, images=400, window_images=100)
    restless = Reference(by_hour=False, images=400, window_images=100)
    for number in range(20):
        steady.learn(0, images(20))
        restless.learn(0, images(20, brightness=60 if number // 5 % 2 else 180))
    assert (steady.blocks, restless.blocks) == (4, 4)
    brightness = NAMES.index("brightness")
    assert restless.noise[brightness] > 1 > steady.noise[brightness]


def test_a_reference_is_the_same_after_a_restart_in_the_middle_of_learning() -> None:
    through = Reference(by_hour=True, images=200, window_images=50)
    stopped = Reference(by_hour=True, images=200, window_images=50)
    for number in range(12):
        for reference in (through, stopped):
            reference.learn(5, images(20, brightness=100 + 10 * number))
        hours = {hour: stopped.pack_hour(hour) for hour in range(24)}
        stopped = Reference.restore(stopped.fields(), hours, window_images=50)
    assert stopped.fields() == through.fields()
    assert np.array_equal(stopped.total(), through.total())


def test_a_reference_of_a_range_of_time_uses_all_its_images_for_hours_that_it_lacks() -> None:
    reference = Reference.of_blocks([(12, images(100)), (36, images(100))], window_images=100)
    assert (reference.complete_hours, reference.learns(3), reference.images) == ([12], False, 200)
    assert reference.blocks == 2
    assert np.allclose(reference.expected({3: 10}), reference.expected({12: 10}))


def test_too_few_images_are_no_reference() -> None:
    with pytest.raises(ValueError, match="99 images are too few"):
        Reference.of_blocks([(12, images(99))], window_images=100)


def test_a_window_keeps_the_last_images() -> None:
    window = Window(80)
    moved = [window.add(hour, images(10)) for hour in range(20)]
    assert all(moved)
    assert (window.images, window.is_full, min(window.hours)) == (80, True, 12)
    assert images_in(window.counts()) == 80


def test_a_window_waits_for_an_eighth_of_its_images_before_it_moves_on() -> None:
    window = Window(80)
    assert [window.add(0, images(4)) for _ in range(6)] == [False, False, True] * 2


def test_a_large_report_makes_the_window_larger_but_not_endless() -> None:
    window = Window(80)
    for _ in range(10):
        window.add(0, images(300))
    assert window.images == 300


def test_a_window_is_the_same_after_a_restart() -> None:
    window = Window(80)
    for hour in range(9):
        window.add(hour, images(7))
    restored = Window.restore(window.pack(), 80)
    assert (restored.hours, restored.images) == (window.hours, window.images)
    assert restored.add(9, images(7)) == window.add(9, images(7))
    assert np.array_equal(restored.counts(), window.counts())

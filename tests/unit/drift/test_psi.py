"""Tests of the population stability index."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.drift.bins import BY_NAME
from serve_app.drift.psi import distance, limit

CLASSES, BRIGHTNESS, CONFIDENCE = BY_NAME["classes"], BY_NAME["brightness"], BY_NAME["confidence"]


def counts(size: int, **values: int) -> np.ndarray:
    made = np.zeros(size, np.uint32)
    for name, value in values.items():
        made[int(name[1:])] = value
    return made


def test_equal_shares_have_no_distance() -> None:
    reference = counts(CLASSES.size, _0=600, _1=300, _2=100)
    assert distance(CLASSES, reference, reference // 5).psi == 0


def test_the_index_is_that_of_the_formula_for_large_samples() -> None:
    found = distance(
        CLASSES, counts(CLASSES.size, _0=500_000, _1=500_000), counts(CLASSES.size, _0=800_000, _1=200_000)
    )
    expected = 0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5)
    assert found.psi == pytest.approx(expected, abs=1e-3)


def test_chance_alone_seldom_exceeds_the_limit_for_independent_images() -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(CONFIDENCE.size, 3))
    found = [distance(CONFIDENCE, rng.multinomial(1000, shares), rng.multinomial(100, shares)) for _ in range(500)]
    assert np.median([one.psi for one in found]) < 0.02  # without the correction, it would be far above
    assert not any(one.psi > one.chance for one in found)


def test_a_value_that_was_never_seen_is_a_large_finite_distance() -> None:
    found = distance(CLASSES, counts(CLASSES.size, _0=1000), counts(CLASSES.size, _0=100, _7=100))
    assert 1 < found.psi < 10


def test_one_odd_image_is_no_drift() -> None:
    found = distance(CLASSES, counts(CLASSES.size, _0=1000), counts(CLASSES.size, _0=199, _7=1))
    assert found.psi < 0.25


def test_slightly_dimmer_light_is_nearer_than_night() -> None:
    day = counts(BRIGHTNESS.size, _8=1000)
    dimmer, night = (distance(BRIGHTNESS, day, counts(BRIGHTNESS.size, **{name: 200})).psi for name in ("_7", "_1"))
    assert dimmer < 1.5
    assert night > 5


def test_the_limit_follows_the_setting_chance_and_the_noise_of_the_reference() -> None:
    assert limit(0.1, 0.25, 0.0, 100) == 0.25
    assert limit(0.4, 0.25, 0.0, 100) == 0.4
    assert limit(0.1, 0.25, 1.0, 100) == pytest.approx(4.56)
    assert limit(0.1, 0.25, 1.0, 4) > limit(0.1, 0.25, 1.0, 100)
    assert limit(0.1, 0.25, 100.0, 4) == 6.0

"""How many Detectors a demand asks for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from serve_app.scaling import DEMAND, TargetUtilisation


@pytest.mark.parametrize(
    ("demands", "replicas"),
    [([0.0], 0), ([0.5], 1), ([0.8], 1), ([0.9], 2), ([1.0, 1.0], 3), ([2.9], 4), ([0.1, 0.1, 0.1], 1)],
)
def test_engines_work_for_the_wanted_share_of_their_time(demands: list[float], replicas: int) -> None:
    context = SimpleNamespace(aggregated_metrics={DEMAND: dict(enumerate(demands))})
    assert TargetUtilisation(0.8)(context) == (replicas, {})


def test_before_a_replica_reported_none_is_asked_for() -> None:
    assert TargetUtilisation()(SimpleNamespace(aggregated_metrics=None)) == (0, {})

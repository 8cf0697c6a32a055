"""A stream whose camera is covered and then freezes: the status, the events and the metric say so."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from tests.integration.conftest import Service, eventually, metrics, start_stream, stream_events, stream_status
from tests.support.scenes import filmed, save, view

pytestmark = pytest.mark.usefixtures("streams")

FPS = 2


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Save a video that shows a scene for 40 s, a covered lens for 30 s, the scene for 30 s, and one frame for 25 s."""
    covered = view()
    covered[:, :350] = 90
    usual = list(filmed(view(), 40 * FPS))
    later = list(filmed(view(), 30 * FPS, seed=2))
    frames = chain(usual, filmed(covered, 30 * FPS), later, later[-1:] * 25 * FPS)
    return save(tmp_path / "faulty.avi", frames, FPS)


def test_a_covered_and_then_frozen_camera_is_reported(service: Service, faulty: Path) -> None:
    start_stream(service.url, faulty)
    events = stream_events(service.url, after=-1, types="scene_health")
    seen = [next(events) for _ in range(4)]
    events.close()
    assert [event["state"] for event in seen] == ["ok", "covered", "ok", "frozen"]
    assert "clean the lens" in seen[1]["detail"]
    eventually(lambda: stream_status(service.url).state == "completed", what="the end")
    health = stream_status(service.url).scene_health
    assert health is not None
    assert (health.state, health.since_at_s) == ("frozen", seen[3]["captured_at_s"])
    wanted = ("ray_sightline_stream_scene_health{", 'state="frozen"')
    eventually(lambda: any(all(part in line for part in wanted) for line in metrics().splitlines()), what="the metric")

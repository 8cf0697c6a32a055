"""The scene health of a running stream, with a fake detector in this process."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from serve_app.schemas.scene import SceneHealthSettings
from serve_app.schemas.streams import Motion
from serve_app.streams.store import StreamStore
from tests.support.local_streams import FakeDetector, all_events, new_stream
from tests.support.scenes import filmed, save, view

pytestmark = pytest.mark.anyio

FPS = 2


@pytest.fixture
def freezing(tmp_path: Path) -> Path:
    """Save a video that shows a scene for 40 s, and then the same frame for 25 s."""
    usual = list(filmed(view(), 40 * FPS))
    return save(tmp_path / "freezing.avi", chain(usual, usual[-1:] * 25 * FPS), FPS)


async def test_the_status_an_event_and_the_bookmark_say_that_a_camera_is_frozen(freezing: Path) -> None:
    stream = new_stream(freezing, FakeDetector())
    await stream.run()
    health = stream.status().scene_health
    assert health is not None
    assert health.state == "frozen"
    events = [event for event in await all_events(stream) if event["type"] == "scene_health"]
    assert [(event["state"], event["previous"]) for event in events] == [("ok", "unknown"), ("frozen", "ok")]
    assert (events[-1]["detail"], events[-1]["captured_at_s"]) == (health.detail, health.since_at_s)
    bookmark = StreamStore(freezing.parent / "state").bookmark("lot")
    assert bookmark is not None
    assert (bookmark.scene.state, bool(bookmark.scene.picture)) == ("frozen", True)
    assert bookmark.next_event_id > events[-1]["event_id"]


async def test_the_next_process_continues_with_the_state(freezing: Path) -> None:
    await new_stream(freezing, FakeDetector()).run()
    health = new_stream(freezing, FakeDetector()).status().scene_health
    assert health is not None
    assert health.state == "frozen"


async def test_frames_that_skip_the_model_are_checked_too(freezing: Path) -> None:
    stream = new_stream(freezing, detector := FakeDetector(), motion=Motion(max_skip_s=3600))
    await stream.run()
    assert len(detector.seen) == 1
    health = stream.status().scene_health
    assert health is not None
    assert health.state == "frozen"


async def test_a_stream_may_be_excused_from_the_check(freezing: Path) -> None:
    stream = new_stream(freezing, FakeDetector(), scene_health=SceneHealthSettings(enabled=False))
    await stream.run()
    assert stream.status().scene_health is None
    assert not [event for event in await all_events(stream) if event["type"] == "scene_health"]


async def test_the_images_of_a_folder_are_not_checked(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    stream = new_stream(tmp_path / "images", FakeDetector())
    assert stream.status().scene_health is None
    stream._detector.close()

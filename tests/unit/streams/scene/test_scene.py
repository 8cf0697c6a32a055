from __future__ import annotations

import numpy as np

from serve_app.detections import Detections
from serve_app.schemas.streams import Line, LineCrossing, Motion, SourceSpec, StreamSpec, Zone, ZoneChange
from serve_app.streams.bookmark import Bookmark
from serve_app.streams.scene.scene import Scene
from serve_app.types import Answer, Frame, InputShape, Position, Timing

SIDE_PX = 100
PIXELS = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)


def spec(**fields: object) -> StreamSpec:
    return StreamSpec(source=SourceSpec(uri="a.mp4"), **fields)


def frame(number: int) -> Frame:
    return Frame(number, 0.0, number / 10, Position(number), lambda: PIXELS)


def answer(*left_px: int) -> Answer:
    """Return an answer with one dog for each left edge in ``left_px``. Each dog is 20 px wide."""
    boxes = np.array([[x, 30, x + 20, 50] for x in left_px], np.float32).reshape(-1, 4)
    n = len(left_px)
    found = Detections(boxes, np.full(n, 0.9, np.float32), np.zeros(n, np.int32))
    return Answer(found.labelled(("dog",)), SIDE_PX, SIDE_PX, "fake", 1, Timing(), InputShape.square(SIDE_PX))


def test_a_stream_without_tracking_and_motion_keeps_no_state() -> None:
    scene = Scene(spec(), 10, Bookmark())
    assert not scene.is_still(frame(0), PIXELS)
    detections, events = scene.update(answer(1, 50), frame(0))
    assert (len(detections), detections.track_id, events, scene.zones, scene.lines) == (2, None, [], {}, {})


def test_an_object_that_passes_through_is_counted_once() -> None:
    line = Line(name="gate", start=(0.5, 1.0), end=(0.5, 0.0))
    zone = Zone(name="left half", polygon=[(0, 0), (0.5, 0), (0.5, 1), (0, 1)])
    scene = Scene(spec(lines=[line], zones=[zone]), 10, Bookmark())
    seen, events = set(), []
    for number in range(16):
        detections, new = scene.update(answer(5 * number), frame(number))
        assert detections.track_id is not None
        seen |= set(detections.track_id.tolist())
        events += new
    assert seen == {-1, 1}
    assert [type(event) for event in events] == [ZoneChange, ZoneChange, LineCrossing]
    assert scene.lines["gate"].crossed_in == 1
    assert (scene.zones["left half"].entered, scene.zones["left half"].left) == (1, 1)


def test_an_object_at_rest_keeps_its_id_and_stays_inside() -> None:
    zone = Zone(name="all", polygon=[(0, 0), (1, 0), (1, 1), (0, 1)])
    scene = Scene(spec(zones=[zone], motion=Motion(max_skip_s=60)), 10, Bookmark())
    for number in range(3):
        scene.update(answer(40), frame(number))
    assert not scene.is_still(frame(3), PIXELS)
    for number in range(4, 100):
        assert scene.is_still(frame(number), PIXELS)
        assert scene.update_still(frame(number), PIXELS) == []
    detections, _ = scene.update(answer(40), frame(100))
    assert detections.track_id is not None
    assert detections.track_id.tolist() == [1]
    (dwell_s,) = scene.zones["all"].dwell_s.values()
    assert dwell_s > 9

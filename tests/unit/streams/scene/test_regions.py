from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from serve_app.detections import Detections
from serve_app.schemas.streams import Line, LineCount, LineCrossing, Regions, Zone, ZoneChange, ZoneCount
from serve_app.streams.scene.regions import RegionCounter, RegionEvent
from serve_app.types import Frame, Position

WIDTH_PX, HEIGHT_PX = 1000, 500
MIDDLE = Zone(name="middle", polygon=[(0.4, 0.4), (0.6, 0.4), (0.6, 0.8), (0.4, 0.8)])
EVERYWHERE = Zone(name="everywhere", polygon=[(0, 0), (1, 0), (1, 1), (0, 1)])
GATE = Line(name="gate", start=(0.3, 0.6), end=(0.7, 0.6))  # the right-hand side of this line is the lower side

Feet = tuple[float, float]  # an object's position, as fractions of the frame's width and height


def frame_at(at_s: float) -> Frame:
    """Return a frame whose wall-clock time equals its time on the stream's own clock."""
    return Frame(round(at_s * 10), at_s, at_s, Position(0), lambda: np.zeros((1, 1, 3), np.uint8))


def zone_change(
    zone: str, change: Literal["entered", "left"], track_id: int, label: str, at_s: float, dwell_s: float | None = None
) -> ZoneChange:
    return ZoneChange(
        frame_id=round(at_s * 10),
        captured_at_s=at_s,
        zone=zone,
        change=change,
        track_id=track_id,
        label=label,
        dwell_s=dwell_s,
    )


def crossing(line: str, direction: Literal["in", "out"], track_id: int, label: str, at_s: float) -> LineCrossing:
    return LineCrossing(
        frame_id=round(at_s * 10), captured_at_s=at_s, line=line, direction=direction, track_id=track_id, label=label
    )


def see(
    counter: RegionCounter,
    at_s: float,
    objects: dict[int, Feet],
    labels: dict[int, str] | None = None,
    size_px: tuple[int, int] = (WIDTH_PX, HEIGHT_PX),
) -> list[RegionEvent]:
    """Count a frame in which each object has a box of 40 × 100 px above its feet. Return the events."""
    feet = np.array(list(objects.values()), np.float64).reshape(-1, 2) * size_px
    xyxy = np.tile(feet, 2).astype(np.float32) + np.array([-20, -100, 20, 0], np.float32)
    n = len(objects)
    detections = Detections(xyxy, np.full(n, 0.9, np.float32), np.zeros(n, np.int32))
    names = [(labels or {}).get(track_id, "person") for track_id in objects]
    tracked = replace(detections, labels=tuple(names), track_id=np.array(list(objects), np.int64))
    return counter.update(tracked, frame_at(at_s), *size_px)


def walk(counter: RegionCounter, *feet: Feet, track_id: int = 1, start_s: float = 0.0) -> list[RegionEvent]:
    """Move an object along the positions ``feet`` at ten frames per second, and return the events."""
    return [event for i, at in enumerate(feet) for event in see(counter, round(start_s + i / 10, 3), {track_id: at})]


def zones(*some: Zone) -> RegionCounter:
    return RegionCounter(Regions(zones=list(some)))


def lines(*some: Line) -> RegionCounter:
    return RegionCounter(Regions(lines=list(some)))


def test_an_object_enters_stays_and_leaves() -> None:
    counter = zones(MIDDLE)
    assert see(counter, 10.0, {7: (0.2, 0.5)}) == []
    assert see(counter, 11.0, {7: (0.5, 0.5)}) == [zone_change("middle", "entered", 7, "person", 11.0)]
    assert see(counter, 12.5, {7: (0.55, 0.6)}) == []
    assert counter.zones == {"middle": ZoneCount(inside=1, entered=1, left=0, dwell_s={7: 1.5})}
    assert see(counter, 13.0, {7: (0.9, 0.6)}) == [zone_change("middle", "left", 7, "person", 13.0, 2.0)]
    assert counter.zones == {"middle": ZoneCount(inside=0, entered=1, left=1, dwell_s={})}


def test_an_object_stands_where_the_middle_of_its_boxs_lower_edge_is() -> None:
    counter = zones(MIDDLE)
    see(counter, 0.0, {1: (0.5, 0.85), 2: (0.5, 0.45), 3: (0.39, 0.5), 4: (0.41, 0.5)})
    assert set(counter.zones["middle"].dwell_s) == {2, 4}  # object 1 has its box in the zone, but not its feet


def test_an_object_cut_off_by_the_frames_edge_is_in_a_zone_that_ends_there() -> None:
    counter = zones(EVERYWHERE)
    see(counter, 0.0, {1: (0.5, 1.0), 2: (0.0, 0.5), 3: (1.0, 1.0)})
    assert counter.zones["everywhere"].inside == 3


def test_an_object_that_disappears_left_when_it_was_last_seen() -> None:
    counter = zones(MIDDLE)
    walk(counter, *[(0.5, 0.5)] * 31, track_id=4)  # last seen at 3.0 s
    assert see(counter, 5.0, {}) == []
    assert counter.zones["middle"] == ZoneCount(inside=1, entered=1, left=0, dwell_s={4: 3.0})
    assert see(counter, 5.1, {}) == [zone_change("middle", "left", 4, "person", 5.1, 3.0)]
    assert counter.zones["middle"] == ZoneCount(inside=0, entered=1, left=1, dwell_s={})
    assert see(counter, 9.0, {4: (0.5, 0.5)}) == [zone_change("middle", "entered", 4, "person", 9.0)]


def test_an_object_that_is_hidden_for_less_than_two_seconds_stays_inside() -> None:
    counter = zones(MIDDLE)
    see(counter, 0.0, {4: (0.5, 0.5)})
    for at_s in (0.5, 1.0, 1.5, 2.0):
        assert see(counter, at_s, {}) == []
    assert see(counter, 2.1, {4: (0.5, 0.5)}) == []
    assert counter.zones["middle"].dwell_s == {4: 2.1}


def test_an_object_that_is_still_there_after_a_gap_without_frames_has_not_left() -> None:
    counter = zones(MIDDLE)
    see(counter, 0.0, {1: (0.5, 0.5), 2: (0.5, 0.6)})
    assert see(counter, 60.0, {1: (0.5, 0.5)}) == [zone_change("middle", "left", 2, "person", 60.0, 0.0)]
    assert counter.zones["middle"].dwell_s == {1: 60.0}


def test_an_object_that_jitters_at_a_zones_edge_enters_once() -> None:
    rng = np.random.default_rng(0)
    counter = zones(MIDDLE)
    walk(counter, *[(0.5, 0.8 + y) for y in rng.uniform(-0.004, 0.004, 300)])
    assert counter.zones["middle"].entered == 1
    assert counter.zones["middle"].inside == 1


def test_a_detection_without_a_track_is_not_counted() -> None:
    counter = RegionCounter(Regions(zones=[MIDDLE], lines=[GATE]))
    assert walk(counter, (0.5, 0.5), (0.5, 0.7), track_id=-1) == []
    assert counter.zones["middle"].inside == counter.lines["gate"].crossed_in == 0


def test_only_the_labels_that_a_region_names_count_in_it() -> None:
    cars = MIDDLE.model_copy(update={"name": "cars", "labels": ["car", "truck"]})
    car_gate = GATE.model_copy(update={"name": "car gate", "labels": ["car"]})
    counter = RegionCounter(Regions(zones=[MIDDLE, cars], lines=[GATE, car_gate]))
    labels = {1: "person", 2: "car", 3: "truck"}
    for at_s, y in ((0.0, 0.5), (0.1, 0.7)):
        see(counter, at_s, {1: (0.45, y), 2: (0.5, y), 3: (0.55, y)}, labels)
    assert set(counter.zones["middle"].dwell_s) == {1, 2, 3}
    assert set(counter.zones["cars"].dwell_s) == {2, 3}
    assert counter.lines["gate"].crossed_in == 3
    assert counter.lines["car gate"].crossed_in == 1


def test_an_object_whose_label_flickers_does_not_leave_its_zone() -> None:
    counter = zones(MIDDLE.model_copy(update={"labels": ["car"]}))
    for i in range(40):
        see(counter, i / 10, {1: (0.5, 0.5)}, {1: "truck" if i % 3 else "car"})
    assert counter.zones["middle"] == ZoneCount(inside=1, entered=1, left=0, dwell_s={1: 3.9})


@pytest.mark.parametrize("seed", range(5))
def test_the_objects_inside_are_those_that_entered_and_have_not_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    triangle = Zone(name="triangle", polygon=[(0.1, 0.1), (0.9, 0.2), (0.3, 0.9)])
    counter = zones(MIDDLE, triangle, EVERYWHERE)
    at = rng.uniform(0, 1, (30, 2))
    inside: dict[str, set[int]] = {"middle": set(), "triangle": set(), "everywhere": set()}
    for i in range(400):
        at = np.clip(at + rng.normal(0, 0.02, at.shape), 0, 1)
        shown = np.flatnonzero(rng.random(30) < (0.02 if i % 100 > 70 else 0.9))
        for event in see(counter, i / 10, {int(k): (at[k, 0], at[k, 1]) for k in shown}):
            assert isinstance(event, ZoneChange)
            if event.change == "entered":
                assert event.track_id not in inside[event.zone]
                inside[event.zone].add(event.track_id)
            else:
                inside[event.zone].remove(event.track_id)
        for name, count in counter.zones.items():
            assert set(count.dwell_s) == inside[name]
            assert count.inside == count.entered - count.left == len(inside[name])
    assert all(count.left > 20 for count in counter.zones.values())


@pytest.mark.parametrize(
    ("start", "end", "to_the_right"),
    [
        ((0.2, 0.5), (0.8, 0.5), (0.0, 0.2)),  # the line runs to the right, so its right-hand side is below it
        ((0.8, 0.5), (0.2, 0.5), (0.0, -0.2)),  # the line runs to the left, so its right-hand side is above it
        ((0.5, 0.2), (0.5, 0.8), (-0.2, 0.0)),  # the line runs down, so its right-hand side is nearer to x = 0
        ((0.5, 0.8), (0.5, 0.2), (0.2, 0.0)),  # the line runs up, so its right-hand side is nearer to x = 1
        ((0.2, 0.2), (0.8, 0.8), (-0.2, 0.2)),  # the line runs down and to the right
    ],
)
def test_in_is_to_the_right_of_the_way_from_start_to_end(start: Feet, end: Feet, to_the_right: Feet) -> None:
    counter = lines(Line(name="line", start=start, end=end))
    right, left = (0.5 + to_the_right[0], 0.5 + to_the_right[1]), (0.5 - to_the_right[0], 0.5 - to_the_right[1])
    assert walk(counter, left, right) == [crossing("line", "in", 1, "person", 0.1)]
    assert counter.lines == {"line": LineCount(crossed_in=1, crossed_out=0)}
    assert walk(counter, left, start_s=0.2) == [crossing("line", "out", 1, "person", 0.2)]
    assert counter.lines == {"line": LineCount(crossed_in=1, crossed_out=1)}


def test_an_object_that_walks_across_in_small_steps_is_counted_once() -> None:
    counter = lines(GATE)
    walk(counter, *[(0.5, float(y)) for y in np.arange(0.5, 0.7, 0.0007)])
    assert counter.lines["gate"] == LineCount(crossed_in=1, crossed_out=0)


def test_an_object_that_turns_back_on_the_line_is_not_counted() -> None:
    counter = lines(GATE)
    assert walk(counter, (0.5, 0.5), (0.5, 0.58), (0.5, 0.6), (0.5, 0.6), (0.5, 0.58), (0.5, 0.5)) == []
    assert walk(counter, (0.5, 0.7), (0.5, 0.6), (0.5, 0.7), track_id=2) == []


def test_an_object_that_jitters_on_the_line_is_counted_once_when_it_crosses() -> None:
    rng = np.random.default_rng(0)
    counter = lines(GATE)
    jitter = [(0.5, 0.6 + y) for y in rng.uniform(-0.004, 0.004, 300)]
    assert walk(counter, (0.5, 0.5), *jitter) == []
    assert len(walk(counter, (0.5, 0.7), *jitter, start_s=30.2)) == 1
    assert counter.lines["gate"] == LineCount(crossed_in=1, crossed_out=0)


def test_an_object_that_starts_on_the_line_is_not_counted() -> None:
    counter = lines(GATE)
    assert walk(counter, (0.5, 0.6), (0.5, 0.7)) == []
    assert walk(counter, (0.5, 0.6), (0.5, 0.5), track_id=2) == []


def test_an_object_that_goes_around_the_lines_end_has_not_crossed_it() -> None:
    counter = lines(GATE)
    assert walk(counter, (0.65, 0.5), (0.75, 0.55), (0.75, 0.65), (0.65, 0.7)) == []
    straight_back = walk(counter, (0.65, 0.5), start_s=0.4)
    assert straight_back == [crossing("gate", "out", 1, "person", 0.4)]
    assert walk(counter, (0.25, 0.59), (0.25, 0.61), track_id=2) == []
    assert walk(counter, (0.1, 0.5), (0.28, 0.7), track_id=3) == []


def test_a_fast_object_is_counted_if_its_path_crosses_the_line() -> None:
    counter = lines(GATE)
    assert walk(counter, (0.1, 0.1), (0.9, 0.95)) != []  # both positions of the object are far from the line
    assert walk(counter, (0.1, 0.5), (0.9, 0.62), track_id=2) == []  # the object passes beyond the end of the line


def test_a_crossing_while_hidden_for_less_than_two_seconds_is_counted() -> None:
    counter = lines(GATE)
    assert see(counter, 0.0, {1: (0.5, 0.5), 2: (0.4, 0.5)}) == []
    assert see(counter, 1.9, {}) == []
    assert see(counter, 2.0, {1: (0.5, 0.7)}) == [crossing("gate", "in", 1, "person", 2.0)]
    assert see(counter, 2.1, {}) == []
    assert see(counter, 2.2, {2: (0.4, 0.7)}) == []  # object 2 was hidden for 2.2 s, so its side was forgotten


@pytest.mark.parametrize("seed", range(5))
def test_crossings_match_the_true_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counter = lines(Line(name="wall", start=(0.0, 0.5), end=(1.0, 0.5)))
    y = rng.uniform(0, 1, 20)
    crossed_in = crossed_out = 0
    is_below = np.where(abs(y - 0.5) > 0.005, np.sign(y - 0.5), 0)  # 0 if the side is not known yet
    for i in range(300):
        y = np.clip(y + rng.normal(0, 0.03, 20), 0, 1) if i else y
        see(counter, i / 10, {k: (0.02 + 0.05 * k, float(y[k])) for k in range(20)})
        clear = abs(y - 0.5) > 0.005
        now = np.where(clear, np.sign(y - 0.5), is_below)
        crossed_in += int(((now > 0) & (is_below < 0)).sum())
        crossed_out += int(((now < 0) & (is_below > 0)).sum())
        is_below = now
    assert counter.lines["wall"] == LineCount(crossed_in=crossed_in, crossed_out=crossed_out)
    assert crossed_in > 20


def test_a_line_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="end where it starts"):
        Line(name="dot", start=(0.5, 0.5), end=(0.5, 0.5))


def test_a_change_of_resolution_changes_no_count() -> None:
    counter = RegionCounter(Regions(zones=[MIDDLE], lines=[GATE]))
    see(counter, 0.0, {1: (0.5, 0.5)})
    events = see(counter, 0.1, {1: (0.5, 0.7)}, size_px=(3840, 2160))
    assert events == [crossing("gate", "in", 1, "person", 0.1)]
    assert counter.zones["middle"].inside == 1


def test_an_edited_zone_starts_at_zero_and_the_others_continue() -> None:
    counter = RegionCounter(Regions(zones=[MIDDLE, EVERYWHERE], lines=[GATE]))
    walk(counter, (0.5, 0.5), (0.5, 0.7))
    larger = MIDDLE.model_copy(update={"polygon": [(0.3, 0.3), (0.7, 0.3), (0.7, 0.9)]})
    turned = Line(name="gate", start=GATE.end, end=GATE.start)
    other = Line(name="other", start=GATE.start, end=GATE.end)

    counter.replace(Regions(zones=[Zone.model_validate(EVERYWHERE.model_dump()), larger], lines=[other, GATE]))
    assert list(counter.zones) == ["everywhere", "middle"]
    assert counter.zones["everywhere"] == ZoneCount(inside=1, entered=1, left=0, dwell_s={1: 0.1})
    assert counter.zones["middle"] == ZoneCount(inside=0, entered=0, left=0, dwell_s={})
    assert counter.lines == {
        "other": LineCount(crossed_in=0, crossed_out=0),
        "gate": LineCount(crossed_in=1, crossed_out=0),
    }

    assert see(counter, 0.5, {1: (0.5, 0.5)}) == [
        zone_change("middle", "entered", 1, "person", 0.5),
        crossing("gate", "out", 1, "person", 0.5),  # the unchanged line remembers the object's side
    ]
    assert counter.zones["everywhere"].dwell_s == {1: 0.5}
    counter.replace(Regions(zones=[EVERYWHERE.model_copy(update={"labels": ["car"]})], lines=[turned]))
    assert counter.zones == {"everywhere": ZoneCount(inside=0, entered=0, left=0, dwell_s={})}
    assert counter.lines == {"gate": LineCount(crossed_in=0, crossed_out=0)}


def test_objects_that_left_are_forgotten() -> None:
    counter = RegionCounter(Regions(zones=[MIDDLE], lines=[GATE]))
    for i in range(1000):
        see(counter, i / 10, {i: (0.5, 0.5)})
    seen_in_the_last_2_s = 21
    assert len(counter._zones[0].visits) == len(counter._lines[0].sides) == seen_in_the_last_2_s
    assert counter.zones["middle"].entered == 1000


def test_three_hundred_objects_are_counted() -> None:
    counter = RegionCounter(Regions(zones=[EVERYWHERE], lines=[Line(name="wall", start=(0, 0.5), end=(1, 0.5))]))
    for at_s, y in ((0.0, 0.4), (0.1, 0.6), (0.2, 0.7)):
        see(counter, at_s, {k: (0.001 + k / 301, y) for k in range(300)})
    assert counter.zones["everywhere"].inside == 300
    assert counter.lines["wall"] == LineCount(crossed_in=300, crossed_out=0)


def test_a_zone_may_ask_for_more_confidence_than_the_stream() -> None:
    everywhere = EVERYWHERE.polygon
    counter = zones(
        Zone(name="all", polygon=everywhere),
        Zone(name="sure", polygon=everywhere, confidence=0.95),
        Zone(name="people", polygon=everywhere, confidence="person:0.8,*:0.95"),
        Zone(name="dogs", polygon=everywhere, confidence={"dog": 0.95}),
    )
    see(counter, 0.0, {1: (0.5, 0.5), 2: (0.2, 0.2)}, labels={2: "dog"})  # both with a confidence of 0.9
    assert {name: count.entered for name, count in counter.zones.items()} == {
        "all": 2,
        "sure": 0,
        "people": 1,
        "dogs": 1,
    }


def test_a_zone_without_a_threshold_has_none_in_its_json() -> None:
    assert MIDDLE.model_dump().keys() == {"name", "polygon", "labels"}


def test_a_line_may_ask_for_more_confidence_than_the_stream() -> None:
    ends = {"start": (0, 0.5), "end": (1, 0.5)}
    lines = [
        Line(name="all", **ends),
        Line(name="sure", **ends, confidence=0.95),
        Line(name="people", **ends, confidence="person:0.8,*:0.95"),
    ]
    counter = RegionCounter(Regions(lines=lines))
    for at_s, y in ((0.0, 0.4), (0.1, 0.6)):
        see(counter, at_s, {1: (0.2, y), 2: (0.8, y)}, labels={2: "dog"})  # both with a confidence of 0.9
    assert {name: count.crossed_in for name, count in counter.lines.items()} == {"all": 2, "sure": 0, "people": 1}

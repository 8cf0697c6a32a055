"""Counting of objects in zones and across lines.

We do not use the library ``supervision`` here. Its PolygonZone does not report which objects enter and leave a zone, or
how long they stay. Its LineZone counts objects that walk around the end of the line, forgets an object after two frames
without a detection, and loses its counts when the line is edited.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from serve_app.detections import Detections
from serve_app.schemas.streams import Line, LineCount, LineCrossing, Regions, Zone, ZoneChange, ZoneCount
from serve_app.streams.scene.anchors import anchors_of
from serve_app.thresholds import Confidence, split
from serve_app.types import Frame

_GONE_AFTER_S = 2.0  # an object that has not been seen for longer than this has left
_JITTER = 0.005  # a share of the frame's height; the box of a still object jitters by less

_Point = tuple[float, float]  # x, y, as fractions of the frame's width and height


RegionEvent = ZoneChange | LineCrossing


class RegionCounter:
    """Counts a stream's tracked objects in zones and across lines.

    ``anchors_of`` says what the position of an object is. Because boxes jitter, an object has crossed a line
    or left a zone only when its position is beyond the edge by more than 0.5 % of the frame's height.
    """

    def __init__(
        self,
        regions: Regions,
        zones: Mapping[str, ZoneCount] | None = None,
        lines: Mapping[str, LineCount] | None = None,
    ) -> None:
        """Continue from the earlier counts ``zones`` and ``lines``, which are given by name.

        Objects that were inside a zone are counted as having left the zone. If such an object is seen in the zone
        again, the object is counted as entering.
        """
        self._zones = [_ZoneCounter(zone) for zone in regions.zones]
        self._lines = [_LineCounter(line) for line in regions.lines]
        for zone in self._zones:
            if before := (zones or {}).get(zone.zone.name):
                zone.entered = zone.left = before.entered
        for line in self._lines:
            if crossed := (lines or {}).get(line.line.name):
                line.crossed_in, line.crossed_out = crossed.crossed_in, crossed.crossed_out

    @property
    def zones(self) -> dict[str, ZoneCount]:
        """The counts of each zone, by name."""
        return {counter.zone.name: counter.count() for counter in self._zones}

    @property
    def lines(self) -> dict[str, LineCount]:
        """The counts of each line, by name."""
        return {counter.line.name: counter.count() for counter in self._lines}

    def replace(self, regions: Regions) -> None:
        """Change the zones and lines that are counted.

        Unchanged zones and lines keep their counts, and all others start at zero. If a zone is removed, there are no
        ``left`` events for the objects inside it.
        """
        self._zones = [
            next((old for old in self._zones if old.zone == zone), _ZoneCounter(zone)) for zone in regions.zones
        ]
        self._lines = [
            next((old for old in self._lines if old.line == line), _LineCounter(line)) for line in regions.lines
        ]

    def update(
        self,
        tracked: Detections,
        frame: Frame,
        width_px: int,
        height_px: int,
    ) -> list[RegionEvent]:
        """Count the objects of a frame, and return the events since the previous frame.

        Call this for frames without detections, too. Detections without a track (-1) are not counted. If no frame
        arrives for a long time, an object that is seen in the next frame is not counted as having left.
        """
        if tracked.labels is None or tracked.track_id is None:
            raise ValueError("detections cannot be counted without labels and track ids")
        points = anchors_of(tracked) / (width_px, height_px)
        seen = [
            _SeenObject(track_id, label, confidence, (x, y))
            for track_id, label, confidence, (x, y) in zip(
                tracked.track_id.tolist(), tracked.labels, tracked.confidence.tolist(), points.tolist(), strict=True
            )
            if track_id >= 0
        ]
        events: list[RegionEvent] = []
        for zone in self._zones:
            events += zone.update(seen, frame, width_px, height_px)
        for line in self._lines:
            events += line.update(seen, frame, width_px, height_px)
        return events


@dataclass(frozen=True)
class _SeenObject:
    """A tracked object in one frame."""

    track_id: int
    label: str
    confidence: float
    point: _Point


@dataclass
class _Visit:
    """One object's stay in a zone."""

    label: str
    entered_at_s: float
    seen_at_s: float

    @property
    def dwell_s(self) -> float:
        return self.seen_at_s - self.entered_at_s


@dataclass
class _ZoneCounter:
    zone: Zone
    entered: int = 0
    left: int = 0
    visits: dict[int, _Visit] = field(default_factory=dict)  # the visits of the objects that are inside, by track id

    def count(self) -> ZoneCount:
        dwell_s = {track_id: round(visit.dwell_s, 3) for track_id, visit in self.visits.items()}
        return ZoneCount(inside=len(self.visits), entered=self.entered, left=self.left, dwell_s=dwell_s)

    def update(self, seen: list[_SeenObject], frame: Frame, width_px: int, height_px: int) -> list[ZoneChange]:
        stream_time_s = frame.stream_time_s
        polygon_px = np.array(self.zone.polygon, np.float32) * np.array([width_px, height_px], np.float32)  # (n, 2)
        events = []
        for seen_object in _above(self.zone.confidence, _counted(seen, self.zone.labels)):
            x, y = seen_object.point
            outside_px = -cv2.pointPolygonTest(polygon_px, (x * width_px, y * height_px), measureDist=True)
            visit = self.visits.get(seen_object.track_id)
            if visit is None:
                if outside_px <= 0:  # the edge is part of the zone, because zones and boxes may end at the frame's edge
                    self.visits[seen_object.track_id] = _Visit(seen_object.label, stream_time_s, stream_time_s)
                    self.entered += 1
                    events.append(self._event(frame, "entered", seen_object.track_id, seen_object.label))
            else:
                visit.label, visit.seen_at_s = seen_object.label, stream_time_s
                if outside_px > _JITTER * height_px:
                    events.append(self._leave(frame, seen_object.track_id))
        gone = [track_id for track_id, visit in self.visits.items() if stream_time_s - visit.seen_at_s > _GONE_AFTER_S]
        return events + [self._leave(frame, track_id) for track_id in gone]

    def _leave(self, frame: Frame, track_id: int) -> ZoneChange:
        visit = self.visits.pop(track_id)
        self.left += 1
        return self._event(frame, "left", track_id, visit.label, round(visit.dwell_s, 3))

    def _event(
        self, frame: Frame, change: Literal["entered", "left"], track_id: int, label: str, dwell_s: float | None = None
    ) -> ZoneChange:
        return ZoneChange(
            frame_id=frame.frame_id,
            captured_at_s=frame.captured_at_s,
            zone=self.zone.name,
            change=change,
            track_id=track_id,
            label=label,
            dwell_s=dwell_s,
        )


@dataclass
class _Side:
    """An object's state relative to a line: the side, and the last position that was clearly on this side."""

    is_right: bool
    point: _Point
    seen_at_s: float  # when the object was last seen, even if its side could not be determined then


@dataclass
class _LineCounter:
    line: Line
    crossed_in: int = 0
    crossed_out: int = 0
    sides: dict[int, _Side] = field(default_factory=dict)  # by track id

    def count(self) -> LineCount:
        return LineCount(crossed_in=self.crossed_in, crossed_out=self.crossed_out)

    def update(self, seen: list[_SeenObject], frame: Frame, width_px: int, height_px: int) -> list[LineCrossing]:
        stream_time_s = frame.stream_time_s
        start, end = self.line.start, self.line.end
        length_px = math.hypot((end[0] - start[0]) * width_px, (end[1] - start[1]) * height_px)
        # A line and a point form a triangle. Twice its area is the line's length times the point's distance.
        jitter = _JITTER * height_px * length_px / (width_px * height_px)
        events = []
        for seen_object in _above(self.line.confidence, _counted(seen, self.line.labels)):
            area = _area(start, end, seen_object.point)
            side = self.sides.get(seen_object.track_id)
            if side is not None:
                side.seen_at_s = stream_time_s
            if abs(area) <= jitter:
                continue  # the object is too close to the line to say on which side it is
            is_right = area > 0
            has_changed = side is not None and side.is_right != is_right
            if side is not None and has_changed and _crosses_between(start, end, side.point, seen_object.point):
                events.append(self._cross(frame, seen_object, is_right))
            self.sides[seen_object.track_id] = _Side(is_right, seen_object.point, stream_time_s)
        for track_id in [key for key, side in self.sides.items() if stream_time_s - side.seen_at_s > _GONE_AFTER_S]:
            del self.sides[track_id]
        return events

    def _cross(self, frame: Frame, seen_object: _SeenObject, is_right: bool) -> LineCrossing:
        if is_right:
            self.crossed_in += 1
        else:
            self.crossed_out += 1
        return LineCrossing(
            frame_id=frame.frame_id,
            captured_at_s=frame.captured_at_s,
            line=self.line.name,
            direction="in" if is_right else "out",
            track_id=seen_object.track_id,
            label=seen_object.label,
        )


def _counted(seen: list[_SeenObject], labels: list[str]) -> list[_SeenObject]:
    return [seen_object for seen_object in seen if seen_object.label in labels] if labels else seen


def _above(confidence: Confidence | None, seen: list[_SeenObject]) -> list[_SeenObject]:
    """Return the objects above the thresholds of a zone or a line.

    Without ``*``, labels that it does not name have no threshold.
    """
    others, by_label = split(confidence)
    thresholds = dict(by_label)
    return [one for one in seen if one.confidence > thresholds.get(one.label, others or 0.0)]


def _area(start: _Point, end: _Point, point: _Point) -> float:
    """Return twice the signed area of a triangle.

    The result is positive if ``point`` is to the right of the direction from ``start`` to ``end``. The y axis points
    down.
    """
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])


def _crosses_between(start: _Point, end: _Point, before: _Point, after: _Point) -> bool:
    """Return whether the path from ``before`` to ``after`` crosses the line between its ends ``start`` and ``end``.

    The two positions must be on different sides of the line.
    """
    return _area(before, after, start) * _area(before, after, end) <= 0

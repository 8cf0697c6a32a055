"""Objects counted in zones and across lines.

Our own, since supervision's PolygonZone knows neither who came, went and how long each stayed, and its LineZone counts
who walked around the line's end, forgets an object after two frames without it, and loses its counts when edited.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from serve_app.schemas.streams import Line, LineCount, LineCrossing, Regions, Zone, ZoneChange, ZoneCount
from serve_app.types import Detections, Frame

_GONE_AFTER_S = 2.0  # unseen for longer, an object has left at the time it was last seen, and is forgotten
_JITTER = 0.005  # of the picture's height: boxes of an object at rest move by less

_Point = tuple[float, float]  # x, y: of the picture's width and height


RegionEvent = ZoneChange | LineCrossing


class RegionCounter:
    """Counts one stream's tracked objects by the middle of their box's lower edge.

    An object that stands on an edge and trembles is not counted again and again: only 0.5 % of the picture's height
    behind a line has it changed sides, and only that far outside has it left a zone.
    """

    def __init__(
        self,
        regions: Regions,
        zones: Mapping[str, ZoneCount] | None = None,
        lines: Mapping[str, LineCount] | None = None,
    ) -> None:
        """``zones`` and ``lines`` are counts to go on from, by name. Who was inside has left, and enters anew."""
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
        """Each zone's counts, by name."""
        return {counter.zone.name: counter.count() for counter in self._zones}

    @property
    def lines(self) -> dict[str, LineCount]:
        """Each line's counts, by name."""
        return {counter.line.name: counter.count() for counter in self._lines}

    def replace(self, regions: Regions) -> None:
        """Count these from now on. Zones and lines that stay as they were keep their counts; others begin at nothing,
        and what ends with one that is gone is no event."""
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
        """What happened from the last frame to this one. To be called for frames without detections, too.

        A detection without a track (-1) counts for nothing. Time in which
        there were no frames takes no object away that is still there after it.
        """
        if tracked.labels is None or tracked.track_id is None:
            raise ValueError("only labelled and tracked detections can be counted")
        x = (tracked.xyxy[:, 0] + tracked.xyxy[:, 2]) / (2 * width_px)
        y = tracked.xyxy[:, 3] / height_px
        seen = [
            _Seen(track_id, label, point)
            for track_id, label, point in zip(
                tracked.track_id.tolist(), tracked.labels, zip(x.tolist(), y.tolist(), strict=True), strict=True
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
class _Seen:
    """A tracked object in one frame."""

    track_id: int
    label: str
    point: _Point


@dataclass
class _Visit:
    """An object's time in a zone."""

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
    visits: dict[int, _Visit] = field(default_factory=dict)  # by track id: who is inside now

    def count(self) -> ZoneCount:
        dwell_s = {track_id: round(visit.dwell_s, 3) for track_id, visit in self.visits.items()}
        return ZoneCount(inside=len(self.visits), entered=self.entered, left=self.left, dwell_s=dwell_s)

    def update(self, seen: list[_Seen], frame: Frame, width_px: int, height_px: int) -> list[ZoneChange]:
        stream_time_s = frame.stream_time_s
        polygon_px = np.array(self.zone.polygon, np.float32) * np.array([width_px, height_px], np.float32)  # (n, 2)
        events = []
        for one in _counted(seen, self.zone.labels):
            x, y = one.point
            outside_px = -cv2.pointPolygonTest(polygon_px, (x * width_px, y * height_px), measureDist=True)
            visit = self.visits.get(one.track_id)
            if visit is None:
                if outside_px <= 0:  # the edge is inside: boxes end at the picture's, and so do zones
                    self.visits[one.track_id] = _Visit(one.label, stream_time_s, stream_time_s)
                    self.entered += 1
                    events.append(self._event(frame, "entered", one.track_id, one.label))
            else:
                visit.label, visit.seen_at_s = one.label, stream_time_s
                if outside_px > _JITTER * height_px:
                    events.append(self._leave(frame, one.track_id))
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
    """Where an object was when it was last clearly on one side of a line."""

    is_right: bool
    point: _Point
    seen_at_s: float  # the object, on whichever side


@dataclass
class _LineCounter:
    line: Line
    crossed_in: int = 0
    crossed_out: int = 0
    sides: dict[int, _Side] = field(default_factory=dict)  # by track id

    def count(self) -> LineCount:
        return LineCount(crossed_in=self.crossed_in, crossed_out=self.crossed_out)

    def update(self, seen: list[_Seen], frame: Frame, width_px: int, height_px: int) -> list[LineCrossing]:
        stream_time_s = frame.stream_time_s
        start, end = self.line.start, self.line.end
        length_px = math.hypot((end[0] - start[0]) * width_px, (end[1] - start[1]) * height_px)
        # The area of a triangle over the line, twice, is its length times the point's distance from it.
        jitter = _JITTER * height_px * length_px / (width_px * height_px)
        events = []
        for one in _counted(seen, self.line.labels):
            area = _area(start, end, one.point)
            side = self.sides.get(one.track_id)
            if side is not None:
                side.seen_at_s = stream_time_s
            if abs(area) <= jitter:
                continue  # on the line: on neither side yet
            is_right = area > 0
            if side is not None and side.is_right != is_right and _between(start, end, side.point, one.point):
                events.append(self._cross(frame, one, is_right))
            self.sides[one.track_id] = _Side(is_right, one.point, stream_time_s)
        for track_id in [key for key, side in self.sides.items() if stream_time_s - side.seen_at_s > _GONE_AFTER_S]:
            del self.sides[track_id]
        return events

    def _cross(self, frame: Frame, one: _Seen, is_right: bool) -> LineCrossing:
        if is_right:
            self.crossed_in += 1
        else:
            self.crossed_out += 1
        return LineCrossing(
            frame_id=frame.frame_id,
            captured_at_s=frame.captured_at_s,
            line=self.line.name,
            direction="in" if is_right else "out",
            track_id=one.track_id,
            label=one.label,
        )


def _counted(seen: list[_Seen], labels: list[str]) -> list[_Seen]:
    return [one for one in seen if one.label in labels] if labels else seen


def _area(start: _Point, end: _Point, point: _Point) -> float:
    """Twice the area of the triangle: positive for a point to the right of who looks from start to end (y is down)."""
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])


def _between(start: _Point, end: _Point, before: _Point, after: _Point) -> bool:
    """Whether the way from before to after, which are on two sides of the line, passes between its ends."""
    return _area(before, after, start) * _area(before, after, end) <= 0

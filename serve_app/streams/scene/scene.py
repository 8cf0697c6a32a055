"""The scene of a stream: its motion, its tracked objects, the counts of its zones and lines, and its class."""

from __future__ import annotations

from dataclasses import replace

from serve_app.detections import Detections
from serve_app.schemas.streams import EventType, LabelChange, LineCount, StreamSpec, ZoneChange, ZoneCount
from serve_app.streams.bookmark import Bookmark
from serve_app.streams.scene.motion import MotionGate
from serve_app.streams.scene.regions import RegionCounter, RegionEvent
from serve_app.streams.scene.top_class import TopClass
from serve_app.streams.scene.tracking import Tracker
from serve_app.types import Answer, Frame, Pixels

SceneEvent = RegionEvent | LabelChange


def type_of(event: SceneEvent) -> EventType:
    """Return the type of an event."""
    if isinstance(event, LabelChange):
        return "label"
    return "zone" if isinstance(event, ZoneChange) else "line"


class Scene:
    """The motion gate, the tracker and the counters of one stream, as far as the stream's spec requests them.

    If the stream's model classifies whole images, the scene also has the class of the frames.
    """

    def __init__(self, spec: StreamSpec, fps: float, bookmark: Bookmark) -> None:
        """Continue from ``bookmark``. ``fps`` is the source's frame rate.

        Raise StartError if the stream needs tracking and tracking is not installed.
        """
        self._gate = MotionGate(spec.motion) if spec.motion else None
        self._fps = min(fps, spec.max_fps or fps)
        self._first_track_id = bookmark.next_track_id
        self._tracker = self._make_tracker() if spec.is_tracked else None
        self._regions = RegionCounter(spec, bookmark.zones, bookmark.lines)
        self._top_class = TopClass(spec.label_after_s, bookmark.label)
        self._latest = Detections.empty()  # the detections of the last frame that the model processed

    @property
    def zones(self) -> dict[str, ZoneCount]:
        """The counts of each zone, by name."""
        return self._regions.zones

    @property
    def lines(self) -> dict[str, LineCount]:
        """The counts of each line, by name."""
        return self._regions.lines

    @property
    def label(self) -> str | None:
        """The most probable class of the frames, if the model classifies whole images."""
        return self._top_class.label

    @property
    def next_track_id(self) -> int:
        """The track id that the next new object gets."""
        return self._tracker.next_id if self._tracker else self._first_track_id

    def replace(self, spec: StreamSpec) -> None:
        """Change the zones and lines to those of ``spec``. Raise StartError if tracking is not installed."""
        if spec.is_tracked and self._tracker is None:
            self._tracker = self._make_tracker()
        self._regions.replace(spec)

    def is_still(self, frame: Frame, pixels: Pixels) -> bool:
        """Return whether a frame can skip the model.

        This requires that little has moved since the last processed frame.
        """
        return self._gate is not None and not self._gate.passes(pixels, frame.stream_time_s)

    def update_still(self, frame: Frame, pixels: Pixels) -> list[SceneEvent]:
        """Count the objects of a frame that skips the model, and return the events since the previous frame.

        The frame gets the detections of the last processed frame. An object that was last seen
        more than 2 s ago leaves its zone, even in a frame that skips the model.
        """
        return self._count(frame, pixels.shape[1], pixels.shape[0])[1]

    def update(self, answer: Answer, frame: Frame) -> tuple[Detections, list[SceneEvent]]:
        """Return the detections of a processed frame, and the events since the previous frame.

        If the stream needs tracking, the detections have track ids.
        """
        self._latest = answer.detections
        return self._count(frame, answer.width_px, answer.height_px)

    def _count(self, frame: Frame, width_px: int, height_px: int) -> tuple[Detections, list[SceneEvent]]:
        if self._latest.classes is not None:  # there are no objects
            change = self._top_class.update(self._latest.classes, frame)
            return self._latest, [] if change is None else [change]
        if self._tracker is None:
            return self._latest, []
        tracked = replace(self._latest, track_id=self._tracker.update(self._latest, frame.stream_time_s))
        return tracked, [*self._regions.update(tracked, frame, width_px, height_px)]

    def _make_tracker(self) -> Tracker:
        return Tracker(self._fps, self._first_track_id)

"""What goes on in a stream from frame to frame: what moved, which object is which, and what is counted."""

from __future__ import annotations

from dataclasses import replace

from serve_app.schemas.streams import LineCount, StreamSpec, ZoneCount
from serve_app.streams.bookmark import Bookmark
from serve_app.streams.scene.motion import MotionGate
from serve_app.streams.scene.regions import RegionCounter, RegionEvent
from serve_app.streams.scene.tracking import Tracker
from serve_app.types import Answer, Detections, Frame, Pixels


class Scene:
    """One stream's memory of its frames, as far as the stream asks for one."""

    def __init__(self, spec: StreamSpec, fps: float, bookmark: Bookmark) -> None:
        """``fps`` is what the source sends. Raises StartError where tracking is not installed."""
        self._gate = MotionGate(spec.motion) if spec.motion else None
        self._fps = min(fps, spec.max_fps or fps)
        self._first_track_id = bookmark.next_track_id
        self._tracker = self._make_tracker() if spec.is_tracked else None
        self._regions = RegionCounter(spec, bookmark.zones, bookmark.lines)
        self._latest = Detections.empty()  # of the last frame that the model saw

    @property
    def zones(self) -> dict[str, ZoneCount]:
        """Each zone's counts, by name."""
        return self._regions.zones

    @property
    def lines(self) -> dict[str, LineCount]:
        """Each line's counts, by name."""
        return self._regions.lines

    @property
    def next_track_id(self) -> int:
        """The next new object's."""
        return self._tracker.next_id if self._tracker else self._first_track_id

    def replace(self, spec: StreamSpec) -> None:
        """Count these zones and lines from now on. Raises StartError."""
        if spec.is_tracked and self._tracker is None:
            self._tracker = self._make_tracker()
        self._regions.replace(spec)

    def is_still(self, frame: Frame, pixels: Pixels) -> bool:
        """Nothing moved since the last frame that was looked at: what was there is there, and needs no model."""
        return self._gate is not None and not self._gate.passes(pixels, frame.stream_time_s)

    def stay(self, frame: Frame, pixels: Pixels) -> list[RegionEvent]:
        """A frame that is still shows what the last one did; what happened since then, time included."""
        return self._count(frame, pixels.shape[1], pixels.shape[0])[1]

    def update(self, answer: Answer, frame: Frame) -> tuple[Detections, list[RegionEvent]]:
        """Return the detections, tracked if the stream asks for it, and what happened since the last frame."""
        self._latest = answer.detections
        return self._count(frame, answer.width_px, answer.height_px)

    def _count(self, frame: Frame, width_px: int, height_px: int) -> tuple[Detections, list[RegionEvent]]:
        if self._tracker is None:
            return self._latest, []
        tracked = replace(self._latest, track_id=self._tracker.update(self._latest, frame.stream_time_s))
        return tracked, self._regions.update(tracked, frame, width_px, height_px)

    def _make_tracker(self) -> Tracker:
        return Tracker(self._fps, self._first_track_id)

"""Whether there may be one more stream, and the detectors can hold it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serve_app.errors import Overloaded
from serve_app.schemas.streams import Policy, StreamSpec
from serve_app.streams.capture.timestamps import USUAL_FPS


@dataclass(frozen=True)
class Load:
    """What a stream asks of the detectors."""

    spec: StreamSpec
    policy: Policy
    source_fps: float | None  # as it says itself, once it was opened

    @property
    def fps(self) -> float:
        """Frames a second that lose their worth when they wait; none of a stream that waits for the detectors."""
        if self.policy == "wait":
            return 0.0
        return min(self.source_fps or USUAL_FPS, self.spec.max_fps or float("inf"))


def check_room(count: int, max_streams: int) -> None:
    """Raises Overloaded where there are as many streams as may be, also of those that are paused or wait."""
    if count >= max_streams:
        raise Overloaded(
            f"streams.max_streams: there are {count} streams, and no more than {max_streams} may be; delete one or "
            "raise it",
            limit="streams.max_streams",
        )


def admit(new: Load, others: Iterable[Load], capacity_fps: float) -> None:
    """Raises Overloaded for a stream that would make the detectors drop frames, its own or others'."""
    taken_fps = sum(load.fps for load in others)
    if new.spec.degrade or not new.fps or taken_fps + new.fps <= capacity_fps:
        return
    raise Overloaded(
        f"detector_capacity: the detectors take {capacity_fps:.0f} frames a second; the streams that there are send "
        f"{taken_fps:.0f}, and this one would add {new.fps:.0f}: give it a lower max_fps, say degrade to have frames "
        "dropped, or add Detector replicas",
        limit="detector_capacity",
    )

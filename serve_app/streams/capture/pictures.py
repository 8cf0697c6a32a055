"""An opened source, whatever it is read by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve_app.types import Pixels, Position

Picture = tuple[Callable[[], Pixels], Position]  # the pixels when asked for


@dataclass(frozen=True)
class Video:
    """An opened source. Iterate it once; that raises SourceError."""

    pictures: Iterator[Picture]
    fps: float | None = None  # as the source says itself
    has_end: bool = False
    comes_in_bursts: bool = False  # faster than a camera sends: the capture waits where it keeps the pace
    # Of pictures that come only when they are asked for: how long to wait between two where max_fps does not say.
    pull_interval_s: float | None = None
    passed_over: int = 0  # files of a folder that are no pictures

    def __iter__(self) -> Iterator[Picture]:
        """Raises SourceError."""
        return self.pictures

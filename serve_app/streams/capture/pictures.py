"""The common interface of all opened sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve_app.types import Pixels, Position

Picture = tuple[Callable[[], Pixels], Position]  # a function that converts the pixels, and the position


@dataclass(frozen=True)
class Video:
    """An opened source. Iterate it only once; the iteration raises SourceError if the source fails."""

    pictures: Iterator[Picture]
    fps: float | None = None  # as the source declares it
    has_end: bool = False
    comes_in_bursts: bool = False  # frames can arrive faster than real time, so the capture has to pace them
    # For sources that send a frame only on request: the time between two requests, unless max_fps sets it.
    pull_interval_s: float | None = None
    passed_over: int = 0  # files in the folder that are not images

    def __iter__(self) -> Iterator[Picture]:
        """Iterate over the images. Raise SourceError if the source fails."""
        return self.pictures

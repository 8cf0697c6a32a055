"""The common interface of all opened sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve_app.errors import Undecodable
from serve_app.types import Pixels, Position

Picture = tuple[Callable[[], Pixels], Position]  # (a function that returns the pixels, the frame's position)


class Skipped:
    """Stands for the pixels of a frame that is never decoded. Only a video that is opened with ``max_fps`` has any."""

    def __call__(self) -> Pixels:
        """Raise Undecodable."""
        raise Undecodable("the frame was not decoded, because max_fps leaves it out")


class NotYetDecoded:
    """Stands for the pixels of a key frame that is decoded only if it is taken."""

    def __init__(self, decode: Callable[[], Callable[[], Pixels] | None]) -> None:
        self._decode = decode

    def decode(self) -> Callable[[], Pixels] | None:
        """Decode the frame, and return the function that returns its pixels. Return None if that is not possible.

        Call this before the next frame is read, and in the same thread.
        """
        return self._decode()

    def __call__(self) -> Pixels:
        """Raise Undecodable, because ``decode`` was not called."""
        return Skipped()()


@dataclass(frozen=True)
class Video:
    """An opened source, whose images can be iterated over once."""

    pictures: Iterator[Picture]
    fps: float | None = None  # the frame rate that the source declares
    has_end: bool = False
    comes_in_bursts: bool = False  # frames may arrive faster than real time, so the capture paces them
    # The time between two requests to a source that sends a frame only on request. ``max_fps`` overrides this time.
    pull_interval_s: float | None = None
    passed_over: int = 0  # the number of files in a folder that are not images

    def __iter__(self) -> Iterator[Picture]:
        """Iterate over the images. Raise SourceError if the source fails."""
        return self.pictures

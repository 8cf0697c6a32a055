"""The frames of a video as a source. The video is cut into clips, which runners decode independently."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator

from serve_app.config import AppArgs
from serve_app.errors import SourceError, SourceTooLarge, TooLarge, Undecodable
from serve_app.jobs.sources import Page, UnreadableItem
from serve_app.jobs.sources.listing import ListedUnit, pages_of
from serve_app.jobs.sources.stored_file import StoredFile, join_cursor, listing_errors, open_stored, split_cursor
from serve_app.jobs.units import CLIP_ITEMS, CLIP_S, Clip, Item, NewUnit
from serve_app.schemas.jobs import VideoSource as VideoSpec
from serve_app.types import Pixels
from serve_app.video.clips import EPSILON_S, MAX_REORDERED, TimedPicture, frames_between, packet_times
from serve_app.video.folder import is_picture, is_still
from serve_app.video.source import Source as VideoFile


class VideoSource:
    """The frames of one video file, in clips of about 10 s."""

    def __init__(self, file: StoredFile, every_s: float | None, every_frames: int | None, max_pixels: int) -> None:
        """Prepare a source of each frame, or of one frame in ``every_s`` seconds or ``every_frames`` frames."""
        self.name = file.name
        self._file = file
        self._every_s = every_s
        self._every_frames = every_frames
        self._max_pixels = max_pixels
        # A clip has whole intervals of ``every_s``, so that a clip needs no frame of the clip before.
        self._clip_s = CLIP_S if every_s is None else every_s * max(1, int(CLIP_S / every_s))

    async def pages(self, cursor: str | None) -> AsyncIterator[Page]:
        """List the clips after ``cursor``: see ``Source.pages``. The file is read once, but not decoded."""
        async for page in pages_of(self._list(cursor), if_empty=None):
            yield page

    async def read(self, item: Item) -> bytes:
        """Refuse the item, because a video has only clips."""
        raise UnreadableItem(f"{item.name} is a video, which has no single images")

    def frames(self, clip: Clip) -> Iterator[tuple[float, Pixels]]:
        """Yield the wanted frames of a clip: see ``Source.frames``."""
        try:
            with self._file.open(clip.version or self._file.version()) as file:
                frames = frames_between(self._video(), file, self._max_pixels, clip.start_s, clip.end_s)
                for count, frame in enumerate(self._wanted(clip, frames)):
                    if count == CLIP_ITEMS:
                        raise Undecodable(f"{self.name} has more than {CLIP_ITEMS} frames in {self._clip_s:g} s")
                    yield round(frame.time_s, 6), frame.pixels()
        except SourceTooLarge as exc:
            raise TooLarge(exc.detail, limit=exc.limit) from exc
        except SourceError as exc:
            raise Undecodable(exc.detail) from exc

    async def close(self) -> None:
        """Do nothing, because nothing stays open between two clips."""

    def _wanted(self, clip: Clip, frames: Iterator[TimedPicture]) -> Iterator[TimedPicture]:
        if self._every_frames is not None:
            for number, frame in enumerate(frames, clip.first_frame):
                if (number if frame.index is None else frame.index) % self._every_frames == 0:
                    yield frame
        elif self._every_s is not None:
            interval = -1
            for frame in frames:
                if (found := self._interval(frame.time_s)) > interval:
                    interval = found
                    yield frame
        else:
            yield from frames

    def _interval(self, time_s: float) -> int:
        return math.floor((time_s + EPSILON_S) / (self._every_s or CLIP_S))

    def _list(self, cursor: str | None) -> Iterator[ListedUnit]:
        with listing_errors():
            first, version = split_cursor(cursor, self._file)
            with self._file.open(version) as file:
                head = file.read(16)
                file.seek(0)
                if not head:
                    raise SourceError(f"source.path: {self.name} is empty")
                if is_still(head) or (is_picture(head) and not head.startswith(b"\xff\xd8\xff")):
                    raise SourceError(f"source.path: {self.name} is an image, not a video; use the type files")
                clips = self._clips(packet_times(self._video(), file, self._max_pixels), version)
                for number, clip in enumerate(clips, 1):
                    if number > first:
                        yield NewUnit(clip=clip), join_cursor(number, version)

    def _clips(self, times_s: Iterator[float], version: str) -> Iterator[Clip]:
        """Cut a video by the times of its packets. A clip is longer only if no frame is near its end."""
        start, frames = 0, 0  # the start in multiples of the clip's length, and the frames before it
        ahead: list[float] = []  # the times of packets that are in no clip yet
        late = 0
        for time_s in times_s:
            ahead.append(time_s)
            late += time_s + EPSILON_S >= (start + 1) * self._clip_s
            if late == MAX_REORDERED:  # packets are not in the order of their times
                end = start + 1
                inside = [one for one in ahead if one + EPSILON_S < end * self._clip_s]
                ahead = [one for one in ahead if one + EPSILON_S >= end * self._clip_s]
                end = max(end, math.floor((min(ahead) + EPSILON_S) / self._clip_s))
                yield self._clip(start, end, inside, frames, version)
                start, frames = end, frames + len(inside)
                late = sum(one + EPSILON_S >= (start + 1) * self._clip_s for one in ahead)
        yield self._clip(start, math.inf, ahead, frames, version)

    def _clip(self, start: int, end: float, times_s: list[float], first_frame: int, version: str) -> Clip:
        expected = len(times_s)
        if self._every_s is not None:
            expected = len({self._interval(time_s) for time_s in times_s})
        elif self._every_frames is not None:
            after = first_frame + expected
            expected = -(-after // self._every_frames) - -(-first_frame // self._every_frames)
        return Clip(self.name, start * self._clip_s, end * self._clip_s, expected, first_frame, version)

    def _video(self) -> VideoFile:
        return VideoFile("", self.name, "file")


def open_video_file(spec: VideoSpec, args: AppArgs) -> VideoSource:
    """Return the source for a video. Raise SourceError if it is not valid or not allowed."""
    if spec.every_s is not None and spec.every_frames is not None:
        raise SourceError("source.every_s and source.every_frames exclude each other; set one of them")
    return VideoSource(open_stored(spec.path, args), spec.every_s, spec.every_frames, args.limits.max_pixels)

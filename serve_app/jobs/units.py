"""The units of a job's work, and their results.

A unit is what one call of a runner does: up to 32 images, or 10 s of a video. Its results and its state are stored in
one transaction, so each item has exactly one result whatever process dies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_UNIT_ITEMS = 32
CLIP_S = 10.0
CLIP_ITEMS = 65_536  # how many item numbers a clip of a video reserves


@dataclass(frozen=True)
class Item:
    """One image as a lister found it."""

    name: str  # relative to the source: a file's path, an object's key, an archive's member, or a URL
    size_bytes: int | None = None
    version: str = ""  # an object's ETag, or a file's modification time; a reader compares it
    offset: int | None = None  # where the image begins in its archive
    id: str = ""  # the client's own id


@dataclass(frozen=True)
class Clip:
    """A piece of a video: the frames whose timestamps are in ``[start_s, end_s)``.

    The last clip of a video has ``end_s`` infinity, because a file may be longer than it declares.
    """

    name: str
    start_s: float
    end_s: float
    expected: int  # frames, by the declared frame rate; the true number is known when the clip is done
    first_frame: int = 0  # how many frames of the video come before, for ``every_frames``
    version: str = ""  # the video's ETag or modification time; a reader compares it


@dataclass(frozen=True)
class NewUnit:
    """A unit that has no number yet."""

    items: tuple[Item, ...] = ()
    clip: Clip | None = None  # set instead of ``items``


@dataclass(frozen=True)
class Unit:
    """A unit that a runner shall work on."""

    job_id: str
    number: int  # counts from 0 within the job
    attempt: int  # counts from 1; a result of an earlier attempt is refused
    first: int  # the item number of ``items[0]``, or of the clip's first frame
    items: tuple[Item, ...] = ()
    clip: Clip | None = None
    todo: tuple[int, ...] | None = None  # item numbers that still have no result; None: all
    is_suspect: bool = False  # a runner died during this unit, so its images are decoded in a separate process

    def wanted(self) -> Iterator[tuple[int, Item]]:
        """Yield the items without a result and their numbers. A clip has none: its frames are numbered as they come."""
        for number, item in enumerate(self.items, self.first):
            if self.todo is None or number in self.todo:
                yield number, item


@dataclass(frozen=True)
class Failed:
    """An item that failed and is not tried again by itself, and the reason."""

    item: int
    name: str
    code: str
    detail: str
    id: str = ""


@dataclass(frozen=True)
class Deferred:
    """Items that shall be tried again later, because a model, a bucket or a disk is not available."""

    items: tuple[int, ...] | None  # None: the whole clip
    code: str
    detail: str
    retry_after_s: float


@dataclass(frozen=True)
class UnitResult:
    """What a runner has done of a unit. Each item of the unit is in exactly one of the three groups."""

    job_id: str
    number: int
    attempt: int
    results: tuple[tuple[int, str], ...]  # item numbers and the JSON of ``schemas.jobs.JobResult``, by number
    failed: tuple[Failed, ...] = ()
    deferred: Deferred | None = None
    detections: dict[str, int] = field(default_factory=dict)  # detected objects, by label
    models: dict[str, int] = field(default_factory=dict)  # items, by ``name@version``

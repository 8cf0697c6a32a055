"""The sources of jobs. Each kind of source has its own module, which lists the source and reads its items."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serve_app.config import AppArgs
from serve_app.errors import ServeAppError, SourceError, SourceMissing
from serve_app.jobs.units import Clip, Item, NewUnit
from serve_app.schemas.jobs import (
    ArchiveSource,
    FilesSource,
    ObjectsSource,
    SourceSpec,
    UploadSource,
    UrlsSource,
    VideoSource,
)
from serve_app.types import Pixels


class MissingItem(ServeAppError):
    """An item was listed, but is no longer there."""

    status_code, code = 404, "missing"


class ChangedItem(ServeAppError):
    """An item is no longer the one that was listed."""

    status_code, code = 409, "changed"


class UnreadableItem(ServeAppError):
    """An item cannot be read, for example because its permissions forbid it."""

    status_code, code = 422, "unreadable"


@dataclass(frozen=True)
class Page:
    """Some units of a source, and the cursor with which the listing continues after them."""

    units: tuple[NewUnit, ...]
    cursor: str | None  # None: the source is listed to its end


class Source(Protocol):
    """The source of one job. The supervisor lists it, and runners read it."""

    name: str  # without credentials

    def pages(self, cursor: str | None) -> AsyncIterator[Page]:
        """List the source after ``cursor``, in a stable order.

        Raise SourceError if the source cannot be read, and Unavailable if it may be readable later.
        """

    async def read(self, item: Item) -> bytes:
        """Return an item's bytes.

        Raise MissingItem, ChangedItem, UnreadableItem, TooLarge or Unfetchable if the item cannot be read, and
        Unavailable or UrlUnavailable if it may be readable later.
        """

    def frames(self, clip: Clip) -> Iterator[tuple[float, Pixels]]:
        """Yield the time and the pixels of each frame of a clip. This blocks: call it in a thread.

        Raise Undecodable if the video is damaged, and the errors of ``read``.
        """

    async def close(self) -> None:
        """Close all files and connections."""


def open_source(spec: SourceSpec, args: AppArgs, folder: Path) -> Source:
    """Return a job's source. ``folder`` is the job's own folder, in which uploads are.

    Raise SourceError if the source is not valid or not allowed, UrlsDisabled if URLs are not allowed, InvalidParameter
    if a library is not installed, and Unavailable if the source may be readable later.
    """
    # These modules need the errors above.
    from serve_app.jobs.sources import archives, files, uploads, urls, videos

    match spec:
        case FilesSource():
            return files.open_files(spec.path, args)
        case ArchiveSource():
            return archives.open_archive(spec.path, args, folder)
        case UrlsSource():
            return urls.open_urls(spec, args)
        case VideoSource():
            return videos.open_video_file(spec, args)
        case UploadSource():
            return uploads.open_uploads(folder, args)
        case ObjectsSource():
            from serve_app.jobs.sources import objects  # needs the extra ``objects``

            return objects.open_objects(spec.uri, args)


def reopen_source(spec: SourceSpec, args: AppArgs, folder: Path) -> Source:
    """Return the source of a job that is listed already. Only its items and frames can be read.

    Raise MissingItem if the source is gone, UnreadableItem if it cannot be opened for another reason that does not
    pass by itself, and the other errors of ``open_source``.
    """
    try:
        if isinstance(spec, UrlsSource):
            from serve_app.jobs.sources import urls

            return urls.reopen_urls(args)
        return open_source(spec, args, folder)
    except SourceMissing as exc:
        raise MissingItem(exc.detail) from exc
    except SourceError as exc:
        raise UnreadableItem(exc.detail) from exc

"""The listing of a source in pages, and the names that are listed."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import PurePath

from serve_app.errors import SourceError, Undecodable
from serve_app.jobs.cutter import groups
from serve_app.jobs.sources import Page
from serve_app.jobs.units import Clip, Item, NewUnit
from serve_app.types import Pixels
from serve_app.video.folder import is_named_a_picture

_MAX_PAGE_UNITS = 32

ListedItem = tuple[Item, str]  # an item, and the cursor with which the listing continues after it
ListedUnit = tuple[NewUnit, str]


class PictureSource:
    """The parts that all sources of single images share."""

    def frames(self, clip: Clip) -> Iterator[tuple[float, Pixels]]:
        """Refuse the clip, because only a video has clips."""
        raise Undecodable(f"{clip.name} is not a video")

    async def close(self) -> None:
        """Do nothing, because nothing stays open between two reads."""


def is_picture_name(name: str) -> bool:
    """Return whether a path or key has an image format's extension and none of its parts is hidden.

    Hidden names include ``._a.jpg`` and ``__MACOSX/._a.jpg``, which macOS writes beside images.
    """
    if (name.startswith(".") or "/." in name) and any(
        part.startswith(".") and part not in {".", ".."} for part in name.split("/")
    ):
        return False
    return _is_picture_ending(os.path.splitext(name)[1])


def printable(name: str) -> str:
    """Return a file name that can be stored and shown: bytes that are not UTF-8 become ``\\xff`` and the like."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@functools.lru_cache
def _is_picture_ending(ending: str) -> bool:
    return is_named_a_picture(PurePath(f"a{ending}"))


def units_of(listed: Iterator[ListedItem]) -> Iterator[ListedUnit]:
    """Cut a listing into units."""
    for group in groups(listed):
        yield NewUnit(items=tuple(item for item, _ in group)), group[-1][1]


async def pages_of(units: Iterator[ListedUnit], *, if_empty: str | None) -> AsyncIterator[Page]:
    """Yield the pages of a listing that blocks. The pages grow, so that the first one comes soon.

    The listing runs in a thread. Raise SourceError with the text ``if_empty`` if nothing is listed. With None, a
    listing may be empty, because it continues an earlier one.
    """
    pages = _pages(units)
    is_empty = True
    while (page := await asyncio.to_thread(next, pages, None)) is not None:
        is_empty = is_empty and not page.units
        if page.cursor is None and is_empty and if_empty is not None:
            raise SourceError(if_empty)
        yield page


def _pages(units: Iterator[ListedUnit]) -> Iterator[Page]:
    size = 1
    following = next(units, None)
    if following is None:
        yield Page((), None)
    while following is not None:
        page = [following, *islice(units, size - 1)]
        following = next(units, None)
        yield Page(tuple(unit for unit, _ in page), None if following is None else page[-1][1])
        size = min(2 * size, _MAX_PAGE_UNITS)

"""One file that a whole source is made of: an archive, a video or a list of URLs. It is a local file or an object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Protocol

from serve_app.config import AppArgs
from serve_app.errors import SourceError
from serve_app.jobs.sources import ChangedItem, MissingItem, UnreadableItem


class StoredFile(Protocol):
    """A file below ``media_dirs``, or an object. All methods block, and raise the errors of ``Source.read``."""

    name: str

    def version(self) -> str:
        """Return the file's present version."""

    def open(self, version: str, buffer_bytes: int = 1 << 20) -> AbstractContextManager[BinaryIO]:
        """Open the file for reading and seeking. Raise ChangedItem if it no longer has this version.

        At least ``buffer_bytes`` are read at a time.
        """


def open_stored(text: str, args: AppArgs) -> StoredFile:
    """Return the file or object of ``source.path``. Raise SourceError if it is not valid or not allowed."""
    if "://" in text:
        from serve_app.jobs.sources.objects import stored_object  # needs the extra ``objects``

        return stored_object(text, args)
    from serve_app.jobs.sources.files import stored_file

    return stored_file(text, args)


@contextmanager
def listing_errors() -> Iterator[None]:
    """Turn the errors of reading an item inside the ``with`` block into SourceError."""
    try:
        yield
    except (MissingItem, ChangedItem, UnreadableItem) as exc:
        raise SourceError(exc.detail) from exc


def join_cursor(position: int, version: str) -> str:
    """Return a cursor for a position in one version of a file."""
    return f"{position} {version}"


def split_cursor(cursor: str | None, file: StoredFile) -> tuple[int, str]:
    """Return the position and the version of a cursor. Without a cursor, begin with the file's present version."""
    if cursor is None:
        return 0, file.version()
    position, _, version = cursor.partition(" ")
    return int(position), version

"""Files below ``media_dirs`` as a source: a folder with its subfolders, a glob, or one file."""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from serve_app.config import AppArgs
from serve_app.errors import ServeAppError, SourceError, SourceMissing, TooLarge, Unavailable
from serve_app.jobs.sources import ChangedItem, MissingItem, Page, UnreadableItem
from serve_app.jobs.sources.globs import matcher, split_glob
from serve_app.jobs.sources.listing import ListedItem, PictureSource, is_picture_name, pages_of, printable, units_of
from serve_app.jobs.sources.stored_file import StoredFile
from serve_app.jobs.units import Item
from serve_app.video.source import open_below

# Twice this many names of one folder are in memory at most. A folder with more names is scanned several times.
_MAX_NAMES = 65_536
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_TEMPORARY = {errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
_RETRY_AFTER_S = 10

IsWanted = Callable[[str], bool]  # whether a file with this name is listed


@dataclass(frozen=True)
class Place:
    """A path that exists, and the folder of ``media_dirs`` that contains it."""

    root: Path
    path: Path


class FilesSource(PictureSource):
    """The images in a folder, in the order of their paths. Links to other folders are not followed."""

    def __init__(
        self, name: str, place: Place, pattern: str, max_bytes: int, is_wanted: IsWanted = is_picture_name
    ) -> None:
        """Prepare the listing of all files in ``place`` that are wanted and whose paths match ``pattern``."""
        self.name = name
        self._root = place.root
        self._folder = place.path.parent if place.path.is_file() else place.path
        self._only = place.path.name if place.path.is_file() else None
        self._pattern = pattern
        self._max_bytes = max_bytes
        self._is_wanted = is_wanted

    async def pages(self, cursor: str | None) -> AsyncIterator[Page]:
        """List the images after ``cursor``: see ``Source.pages``."""
        if_empty = f"source.path: {self.name} has no image; check the path and the file names' extensions"
        async for page in pages_of(units_of(self._list(cursor)), if_empty=if_empty if cursor is None else None):
            yield page

    async def read(self, item: Item) -> bytes:
        """Return an image's bytes: see ``Source.read``."""
        return await asyncio.to_thread(self._read, item)

    def _list(self, cursor: str | None) -> Iterator[ListedItem]:
        names = (
            walk(self._folder, cursor or "", self._is_wanted) if self._only is None else iter([printable(self._only)])
        )
        matches = matcher(self._pattern)
        for name in names:
            if matches(name):
                yield self._item(name), name

    def _item(self, name: str) -> Item:
        try:
            found = os.stat(existing(self._folder, name))
        except OSError:  # a broken link, or deleted just now: reading the item says so
            return Item(name)
        return Item(name, found.st_size, _version(found))

    def _read(self, item: Item) -> bytes:
        path = Path(existing(self._folder, item.name))
        with opened(self._root, path, item.name) as file:
            found = os.fstat(file.fileno())
            if item.version and _version(found) != item.version:
                raise ChangedItem(f"{item.name} has changed since it was listed")
            if found.st_size > self._max_bytes:
                raise too_large(item.name, self._max_bytes)
            return file.read(self._max_bytes + 1)


class LocalFile:
    """One file below ``media_dirs``."""

    def __init__(self, name: str, place: Place) -> None:
        """Prepare reading the file in ``place``."""
        self.name = name
        self._place = place

    def version(self) -> str:
        """Return the time of the file's last change."""
        with opened(self._place.root, self._place.path, self.name) as file:
            return _version(os.fstat(file.fileno()))

    @contextmanager
    def open(self, version: str, buffer_bytes: int = 1 << 20) -> Iterator[BinaryIO]:
        """Open the file: see ``StoredFile.open``."""
        with opened(self._place.root, self._place.path, self.name) as file:
            if _version(os.fstat(file.fileno())) != version:
                raise ChangedItem(f"{self.name} has changed since it was listed")
            yield io.BufferedReader(file, buffer_bytes)  # type: ignore[type-var]


def open_files(text: str, args: AppArgs) -> FilesSource:
    """Return the source for a folder, a file or a glob. Raise SourceError if it is not valid or not allowed."""
    folders = args.streams.folders()
    max_bytes = args.limits.max_body_mib << 20
    base, pattern = split_glob(text)
    if pattern and not _is_there(text):  # a name may really contain brackets
        return FilesSource(text, find(base or ("/" if text.startswith("/") else "."), folders), pattern, max_bytes)
    return FilesSource(text, find(text, folders), "", max_bytes)


def stored_file(text: str, args: AppArgs) -> StoredFile:
    """Return one file below ``media_dirs``. Raise SourceError if it is not valid or not allowed."""
    place = find(text, args.streams.folders())
    if not place.path.is_file():
        raise SourceError(f"source.path: {printable(place.path.name)} is not a file")
    return LocalFile(printable(place.path.name), place)


def find(text: str, folders: Iterable[Path]) -> Place:
    """Return an existing path and its folder of ``media_dirs``.

    Raise SourceError if it is not valid or not allowed, SourceMissing if it does not exist, and Unavailable if it may
    be readable later.
    """
    # The errors omit the part before an @, because a mistyped URL may contain a password.
    shown = printable(Path(text).name).rpartition("@")[2] or "the source"
    if "://" in text:
        raise SourceError("source.path must be a path below a folder of SERVE_APP_MEDIA_DIRS, not a URL")
    try:
        text.encode()
        path = Path(text).resolve()
        root = next((folder for folder in folders if path.is_relative_to(folder)), None)
        if root is None:  # checked first, because errors must not reveal which other files exist
            raise SourceError(
                f"source.path: {shown} is not below a folder of SERVE_APP_MEDIA_DIRS; move it into such a folder, or "
                "add its own folder to SERVE_APP_MEDIA_DIRS"
            )
        if stat.S_IFMT(os.stat(path).st_mode) not in {stat.S_IFREG, stat.S_IFDIR}:
            raise SourceError(f"source.path: {shown} is neither a file nor a folder")
    except (FileNotFoundError, NotADirectoryError):
        raise SourceMissing(f"source.path: {shown} does not exist") from None
    except (ValueError, OSError, RuntimeError) as exc:
        if isinstance(exc, OSError) and exc.errno in _TEMPORARY:
            raise later(f"source.path: {shown} cannot be read now: {exc.strerror}", _RETRY_AFTER_S) from None
        raise SourceError("source.path is not a valid path") from exc
    return Place(root, path)


def walk(top: Path, after: str, is_wanted: IsWanted = is_picture_name) -> Iterator[str]:
    """Yield the relative paths of all wanted files below a folder that come after ``after``, sorted.

    A path that is not UTF-8 is yielded as ``printable`` shows it. Raise SourceError if a folder cannot be listed.
    """
    folders = [("", _entries(functools.partial(_scan, top, top), is_wanted, after))]
    while folders:
        prefix, entries = folders[-1]
        entry = next(entries, None)
        if entry is None:
            folders.pop()
        elif entry.endswith("/"):
            path = prefix + entry
            rest = after.removeprefix(path) if after.startswith(path) else ""
            folders.append((path, _entries(functools.partial(_scan, top, Path(existing(top, path))), is_wanted, rest)))
        else:
            yield prefix + entry


def existing(folder: Path, name: str) -> str:
    """Return the path of a listed name. Take ``\\xff`` for a byte that is not UTF-8 if there is no such file."""
    path = os.path.join(folder, name)
    if "\\x" in name and not os.path.lexists(path):
        raw = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), name.encode())
        return os.path.join(folder, os.fsdecode(raw))
    return path


@contextmanager
def opened(root: Path, path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file below ``root``. Turn errors of the operating system inside the ``with`` block into ours."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_below(root, path))
        except SourceError as exc:
            raise UnreadableItem(f"{name} is a link out of SERVE_APP_MEDIA_DIRS, or not a regular file") from exc
        except OSError as exc:
            raise explain(exc, name) from None
        try:
            yield file
        except OSError as exc:
            raise explain(exc, name) from None


def explain(exc: OSError, name: str) -> ServeAppError:
    """Return the error of an item for an error of the operating system."""
    reason = os.strerror(exc.errno) if exc.errno else type(exc).__name__
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return MissingItem(f"{name} does not exist any longer")
    if isinstance(exc, PermissionError):
        return UnreadableItem(f"{name} cannot be read by this process; change its permissions")
    if exc.errno in _TEMPORARY:
        return later(f"{name} cannot be read now: {reason}", _RETRY_AFTER_S)
    return UnreadableItem(f"{name} cannot be read: {reason}")


def later(detail: str, retry_after_s: int) -> Unavailable:
    """Return the error for something that may be possible in ``retry_after_s`` seconds."""
    error = Unavailable(detail)
    error.retry_after_s = retry_after_s
    return error


def too_large(name: str, max_bytes: int) -> TooLarge:
    """Return the error for an image with too many bytes."""
    return TooLarge(
        f"limits.max_body_mib: {name} is larger than {max_bytes >> 20} MiB, which is the limit; send a smaller image "
        "or raise the limit",
        limit="limits.max_body_mib",
    )


def _entries(scan: Callable[[], Iterator[str]], is_wanted: IsWanted, after: str) -> Iterator[str]:
    """Yield the names in a folder after the path ``after``, sorted. Names of folders end with a slash.

    With this slash, the order of all names is also the order of the whole paths.
    """
    head, slash, rest = after.partition("/")
    low = head + slash
    if rest:
        yield low  # the folder in which the listing stopped
    while True:
        names = _smallest(scan(), low, is_wanted)
        yield from names
        if len(names) < _MAX_NAMES:
            return
        low = names[-1]


def _smallest(names: Iterator[str], low: str, is_wanted: IsWanted) -> list[str]:
    """Return the first names above ``low`` that are folders or wanted. Keep at most twice ``_MAX_NAMES`` in memory."""
    kept: list[str] = []
    high: str | None = None
    for name in names:
        if name > low and (high is None or name < high) and (name.endswith("/") or is_wanted(name)):
            kept.append(name)
            if len(kept) == 2 * _MAX_NAMES:
                kept.sort()
                del kept[_MAX_NAMES:]
                high = kept[-1]
    kept.sort()
    return kept[:_MAX_NAMES]


def _scan(top: Path, folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith("."):
                        yield printable(entry.name) + "/"
                else:
                    yield printable(entry.name)
    except OSError as exc:
        if isinstance(exc, FileNotFoundError) and folder != top:
            return  # deleted while its parent was listed
        if exc.errno in _TEMPORARY:
            raise later("source.path: a folder cannot be listed now", _RETRY_AFTER_S) from None
        where = printable(str(folder.relative_to(top.parent)))
        raise SourceError(f"source.path: the folder {where} cannot be listed: {os.strerror(exc.errno or 0)}") from None


def _version(found: os.stat_result) -> str:
    return str(found.st_mtime_ns)


def _is_there(text: str) -> bool:
    try:
        return stat.S_IFMT(os.stat(text).st_mode) != 0
    except (OSError, ValueError):
        return False

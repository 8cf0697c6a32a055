"""Objects in S3, Google Cloud Storage and Azure as a source."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from serve_app.config import AppArgs
from serve_app.errors import SourceError, TooLarge, Unavailable
from serve_app.jobs.buckets import ObjectUri, check_allowed, open_bucket, parse_object_uri, unavailable
from serve_app.jobs.sources import ChangedItem, MissingItem, Page, UnreadableItem
from serve_app.jobs.sources.globs import matcher, split_glob
from serve_app.jobs.sources.listing import ListedItem, PictureSource, is_picture_name, pages_of, units_of
from serve_app.jobs.sources.stored_file import StoredFile
from serve_app.jobs.units import Item

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_LIST_ITEMS = 1000  # what the services return at a time
# obstore has no error class for these answers to a listing, only a text.
_STATUS = re.compile(r"status code: (\d{3})")
_REFUSED = {
    "403": "may not be listed with the server's credentials; allow it in the bucket's policy",
    "404": "is in a bucket that does not exist; check the bucket's name",
}


class ObjectsSource(PictureSource):
    """The images in a bucket, in the order of their keys."""

    def __init__(self, name: str, uri: ObjectUri, pattern: str, max_bytes: int) -> None:
        """Prepare the listing of all images below ``uri`` whose keys match ``pattern`` after ``uri``."""
        self.name = name
        self._uri = uri
        self._pattern = pattern
        self._max_bytes = max_bytes
        self._bucket = open_bucket(uri)

    async def pages(self, cursor: str | None) -> AsyncIterator[Page]:
        """List the images after ``cursor``: see ``Source.pages``."""
        if_empty = f"source.uri: {self.name} has no image; check the prefix and the keys' extensions"
        async for page in pages_of(units_of(self._list(cursor)), if_empty=if_empty if cursor is None else None):
            yield page

    async def read(self, item: Item) -> bytes:
        """Return an image's bytes: see ``Source.read``."""
        if (item.size_bytes or 0) > self._max_bytes:
            raise _too_large(item.name, self._max_bytes)
        try:
            found = await self._bucket.get_async(item.name, options={"if_match": item.version or None})
            if found.meta["size"] > self._max_bytes:
                raise _too_large(item.name, self._max_bytes)
            return bytes(await found.bytes_async())
        except Exception as exc:
            error = _explain(exc, item.name)
        # Azure answers "changed" also for an object that is gone.
        if isinstance(error, ChangedItem) and await self._is_gone(item.name):
            error = MissingItem(f"{item.name} does not exist")
        raise error

    async def _is_gone(self, key: str) -> bool:
        try:
            await self._bucket.head_async(key)
        except FileNotFoundError:
            return True
        except Exception as exc:
            raise _explain(exc, key) from None
        return False

    def _list(self, cursor: str | None) -> Iterator[ListedItem]:
        matches = matcher(self._pattern)
        start = len(self._uri.key) + 1 if self._uri.key else 0
        for meta in self._metas(cursor):
            key = meta["path"]
            below = key[start:] or key  # the source may be the object itself
            if is_picture_name(below) and matches(below):
                yield Item(key, meta["size"], _etag(meta)), key

    def _metas(self, cursor: str | None) -> Iterator[Any]:
        try:
            if self._uri.key and not self._pattern and is_picture_name(self._uri.key.rpartition("/")[2]):
                try:
                    yield self._bucket.head(self._uri.key)
                    return
                except FileNotFoundError:
                    pass  # a prefix that is named like an image
            for metas in self._bucket.list(self._uri.key or None, offset=cursor, chunk_size=_LIST_ITEMS):
                yield from metas
        except Exception as exc:
            status = _STATUS.search(str(exc))
            if status and status[1] in _REFUSED:
                raise SourceError(f"source.uri: {self.name} {_REFUSED[status[1]]}") from None
            raise _explain(exc, self.name) from None


class StoredObject:
    """One object that a whole source is made of."""

    def __init__(self, uri: ObjectUri) -> None:
        """Prepare reading the object at ``uri``."""
        self.name = str(uri)
        self._key = uri.key
        self._bucket = open_bucket(uri)

    def version(self) -> str:
        """Return the object's ETag."""
        return _etag(self._head())

    @contextmanager
    def open(self, version: str, buffer_bytes: int = 1 << 20) -> Iterator[BinaryIO]:
        """Open the object: see ``StoredFile.open``."""
        yield io.BufferedReader(_Ranges(self._bucket, self._key, self.name, version), buffer_bytes)

    def _head(self) -> Any:
        try:
            return self._bucket.head(self._key)
        except Exception as exc:
            raise _explain(exc, self.name) from None


class _Ranges(io.RawIOBase):
    """An object as a file that can seek. Each read is a request for a range of bytes of the same version."""

    def __init__(self, bucket: ObjectStore, key: str, name: str, version: str) -> None:
        super().__init__()
        self._bucket = bucket
        self._key = key
        self._name = name
        self._version = version
        self._size_bytes: int | None = None  # known after the first answer
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}[whence] if whence != io.SEEK_END else self._size()
        if base + offset < 0:
            raise OSError("a position before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        # A range that begins at the end is an error. So the size must be known, except for a read in the middle, which
        # is seldom beyond the end: only after an error of such a read, the size is asked for.
        if (self._size_bytes is not None or not self._at) and self._at >= self._size():
            return 0
        try:
            options: Any = {"range": (self._at, self._at + len(buffer)), "if_match": self._version or None}
            found = self._bucket.get(self._key, options=options)
            self._size_bytes = found.meta["size"]
            data = found.bytes()
        except Exception as exc:
            error = _explain(exc, self._name)
            if isinstance(error, Unavailable) and self._at >= self._size():
                return 0
            raise error from None
        buffer[: len(data)] = data.to_bytes()
        self._at += len(data)
        return len(data)

    def _size(self) -> int:
        if self._size_bytes is None:
            try:
                self._size_bytes = self._bucket.head(self._key)["size"]
            except Exception as exc:
                raise _explain(exc, self._name) from None
        return self._size_bytes


def open_objects(text: str, args: AppArgs) -> ObjectsSource:
    """Return the source for a bucket, a prefix or a glob.

    Raise SourceError if it is not valid or not allowed, and InvalidParameter if the library is not installed.
    """
    base, pattern = split_glob(text)
    uri = parse_object_uri(base)
    if pattern:
        parse_object_uri(f"{base}/{pattern}")
    check_allowed(uri, args.jobs.prefixes())
    return ObjectsSource(text, uri, pattern, args.limits.max_body_mib << 20)


def stored_object(text: str, args: AppArgs) -> StoredFile:
    """Return one object. Raise the errors of ``open_objects``."""
    uri = parse_object_uri(text, "source.path")
    check_allowed(uri, args.jobs.prefixes(), "source.path")
    if not uri.key:
        raise SourceError("source.path is a bucket; add the object's key")
    return StoredObject(uri)


def _etag(meta: Any) -> str:
    """Return an object's ETag as a header needs it. Azure lists ETags without their quotation marks."""
    etag = meta["e_tag"] or ""
    return etag if not etag or '"' in etag else f'"{etag}"'


def _explain(exc: Exception, name: str) -> Exception:
    """Return our error for an error of obstore, whose text may contain the endpoint and parts of the request."""
    from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, PreconditionError

    if isinstance(exc, FileNotFoundError):
        return MissingItem(f"{name} does not exist")
    if isinstance(exc, PreconditionError):
        return ChangedItem(f"{name} has changed since it was listed")
    if isinstance(exc, PermissionDeniedError | PermissionError):
        return UnreadableItem(f"{name} may not be read with the server's credentials")
    if isinstance(exc, InvalidPathError):
        return UnreadableItem(f"{name} has a key that cannot be read")
    if isinstance(exc, BaseError | OSError | TimeoutError):
        return unavailable(name)
    return exc


def _too_large(name: str, max_bytes: int) -> TooLarge:
    from serve_app.jobs.sources.files import too_large

    return too_large(name, max_bytes)

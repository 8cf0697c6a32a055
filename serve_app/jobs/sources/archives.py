"""A zip, tar or tar.gz file as a source. The names of its members are labels, and never paths.

Members of a zip or tar file are read where they are. A tar.gz file is first unpacked to a tar file in the job's folder,
because it can be read only from its beginning.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from serve_app.config import AppArgs
from serve_app.errors import SourceError
from serve_app.jobs.sources import ChangedItem, Page, UnreadableItem
from serve_app.jobs.sources.files import later, too_large
from serve_app.jobs.sources.listing import ListedItem, PictureSource, is_picture_name, pages_of, units_of
from serve_app.jobs.sources.stored_file import StoredFile, join_cursor, listing_errors, open_stored, split_cursor
from serve_app.jobs.sources.tar_members import DamagedTar
from serve_app.jobs.sources.tar_members import members as tar_members
from serve_app.jobs.sources.zip_members import DamagedZip, read_member
from serve_app.jobs.sources.zip_members import members as zip_members
from serve_app.jobs.units import Item

_PIECE_BYTES = 1 << 20
_HEADER_BYTES = 1 << 12  # read together with a member, because its exact size in the file is not known
_RETRY_AFTER_S = 30


class ArchiveSource(PictureSource):
    """The images in an archive, in the archive's own order."""

    def __init__(self, file: StoredFile, folder: Path, max_bytes: int, max_unpacked_bytes: int) -> None:
        """Prepare a source. ``folder`` is for the tar file that a tar.gz file contains."""
        self.name = file.name
        self._file = file
        self._unpacked = folder / "unpacked.tar"
        self._max_bytes = max_bytes
        self._max_unpacked_bytes = max_unpacked_bytes

    async def pages(self, cursor: str | None) -> AsyncIterator[Page]:
        """List the images after ``cursor``: see ``Source.pages``."""
        if_empty = f"source.path: {self.name} has no image in it"
        async for page in pages_of(units_of(self._list(cursor)), if_empty=if_empty if cursor is None else None):
            yield page

    async def read(self, item: Item) -> bytes:
        """Return an image's bytes: see ``Source.read``."""
        if (item.size_bytes or 0) > self._max_bytes:
            raise too_large(item.name, self._max_bytes)
        return await asyncio.to_thread(self._read, item)

    def _list(self, cursor: str | None) -> Iterator[ListedItem]:
        with listing_errors():
            start, version = split_cursor(cursor, self._file)
            try:
                with self._file.open(version) as file:
                    head = file.read(4)
                    if head.startswith((b"PK\3\4", b"PK\5\6")):
                        yield from self._list_zip(file, start, version)
                        return
                    if not head.startswith(b"\x1f\x8b"):
                        yield from _list_tar(file, start, version, "tar")
                        return
                    if cursor is None or not self._unpacked.exists():
                        self._unpack(file)
                with self._open_unpacked() as unpacked:
                    yield from _list_tar(unpacked, start, version, "gz")
            except (DamagedZip, DamagedTar) as exc:
                raise SourceError(f"source.path: {self.name} cannot be read: {exc}") from None

    def _list_zip(self, file: BinaryIO, start: int, version: str) -> Iterator[ListedItem]:
        for member in zip_members(file, start):
            if not member.is_file or not is_picture_name(member.name):
                continue
            if member.is_encrypted:
                raise SourceError(f"source.path: {self.name} is encrypted; pack it again without a password")
            way = f"zip {member.checksum} {version}"
            yield Item(member.name, member.size_bytes, way, member.offset), join_cursor(member.end, version)

    def _read(self, item: Item) -> bytes:
        kind, _, rest = item.version.partition(" ")
        offset, size_bytes = item.offset or 0, item.size_bytes or 0
        if kind == "gz":
            with self._open_unpacked() as file:
                return _read_range(file, item.name, offset, size_bytes)
        if kind == "tar":
            with self._file.open(rest, max(size_bytes, 1)) as file:
                return _read_range(file, item.name, offset, size_bytes)
        checksum, _, version = rest.partition(" ")
        with self._file.open(version, size_bytes + _HEADER_BYTES) as file:
            try:
                return read_member(file, offset, size_bytes, int(checksum))
            except DamagedZip as exc:
                raise UnreadableItem(f"{item.name} cannot be unpacked: {exc}") from None

    def _open_unpacked(self) -> closing[BinaryIO]:
        try:
            return closing(self._unpacked.open("rb"))
        except FileNotFoundError:
            raise later(
                f"{self.name}: its unpacked content is not in the job's folder; put SERVE_APP_STATE_DIR on a file "
                "system that all machines share",
                _RETRY_AFTER_S,
            ) from None

    def _unpack(self, file: BinaryIO) -> None:
        """Write the content of a gzip file to the job's folder, whole or not at all."""
        part = self._unpacked.with_name(f"{self._unpacked.name}.part")
        file.seek(0)
        left = self._max_unpacked_bytes
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as target, gzip.open(file) as content:
                while piece := content.read(_PIECE_BYTES):
                    left -= len(piece)
                    if left < 0:
                        raise SourceError(
                            f"jobs.max_disk_gib: {self.name} is larger than this limit when it is unpacked; pack it "
                            "as a zip or tar file, which need not be unpacked",
                            limit="jobs.max_disk_gib",
                        )
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
            part.replace(self._unpacked)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise SourceError(f"source.path: {self.name} cannot be read: it is damaged or ends too early") from None
        except OSError as exc:
            if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise later(f"{self.name}: the disk has too little space to unpack it", _RETRY_AFTER_S) from None
            raise
        finally:
            part.unlink(missing_ok=True)


def open_archive(path: str, args: AppArgs, folder: Path) -> ArchiveSource:
    """Return the source for an archive. Raise SourceError if it is not valid or not allowed."""
    return ArchiveSource(
        open_stored(path, args), folder, args.limits.max_body_mib << 20, int(args.jobs.max_disk_gib * 2**30)
    )


def _list_tar(file: BinaryIO, start: int, version: str, kind: str) -> Iterator[ListedItem]:
    for member in tar_members(file, start):
        if is_picture_name(member.name):
            item = Item(member.name, member.size_bytes, f"{kind} {version}", member.offset)
            yield item, join_cursor(member.end, version)


def _read_range(file: BinaryIO, name: str, offset: int, size_bytes: int) -> bytes:
    file.seek(offset)
    data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise ChangedItem(f"{name} has changed since it was listed")
    return data

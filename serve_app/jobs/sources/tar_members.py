"""Reading of tar files: one pass over the headers, which gives the position of each member."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO

_BLOCK_BYTES = 512
_MAX_HEADER_BYTES = 1 << 20  # a long name is read as a whole, and its size may be anything


class DamagedTar(Exception):
    """The file is not a tar file, or it is damaged. The text says which."""


@dataclass(frozen=True)
class Member:
    """A file in a tar file."""

    name: str
    size_bytes: int
    offset: int  # where the content begins
    end: int  # where the next header begins


def members(file: BinaryIO, start: int = 0) -> Iterator[Member]:
    """Yield the plain files in a tar file, from the header at the position ``start``.

    Raise DamagedTar if the file is damaged or ends too early.
    """
    file.seek(start)
    headers: IO[bytes] = _Headers(file)  # type: ignore[assignment]
    end = start
    try:
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # otherwise, all members stay in memory
                if member.size < 0 or archive.offset <= end:  # otherwise, the listing would never end
                    raise DamagedTar("a member has a negative size")
                end = archive.offset
                if member.isreg() and not member.issparse():
                    name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                    yield Member(name.removeprefix("./"), member.size, member.offset_data, end)
            end = archive.offset
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as exc:
        if start == 0 and isinstance(exc, tarfile.ReadError) and not _begins_like_a_tar(file):
            raise DamagedTar("it is not a zip, tar or tar.gz file") from None
        raise DamagedTar("it is damaged or ends too early") from None
    # tarfile takes a damaged header for the end.
    file.seek(end)
    if file.read(_BLOCK_BYTES).strip(b"\0"):
        raise DamagedTar("it is damaged")


def _begins_like_a_tar(file: BinaryIO) -> bool:
    file.seek(257)
    return file.read(5) == b"ustar"


class _Headers:
    """The file as ``tarfile`` sees it. A header of an invalid size is refused before it is in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:  # a negative number would read the whole rest of the file
            raise tarfile.ReadError("the size of a header is not valid")
        return self._file.read(size)

"""Reading of zip files by their central directory, one member at a time and without a list of all members.

The format is PKWARE's APPNOTE.TXT 6.3. We read it ourselves, because ``zipfile`` keeps every member in memory, and
needs the whole directory again for each single member.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT_BYTES = 0xFFFF
_UNKNOWN = 0xFFFFFFFF  # the true number is in the extra field for zip64
_ENCRYPTED, _UTF_8 = 0x1, 0x800
_STORED, _DEFLATED = 0, 8
_PIECE_BYTES = 1 << 16


class DamagedZip(Exception):
    """The zip file or its member is damaged or of an unsupported kind. The text says which."""


@dataclass(frozen=True)
class Member:
    """A file in a zip file."""

    name: str
    size_bytes: int
    checksum: int  # the CRC-32 of the content
    offset: int  # where the member's local header begins
    is_encrypted: bool
    is_file: bool
    end: int  # where the next entry of the directory begins


def members(file: BinaryIO, start: int = 0) -> Iterator[Member]:
    """Yield the members in the order of the central directory, from the entry at the position ``start``.

    Raise DamagedZip if the directory is damaged.
    """
    directory, end, shift = _find_directory(file)
    at = start or directory
    if not directory <= at <= end:
        raise DamagedZip("its directory is damaged")
    while at < end:
        file.seek(at)
        header = file.read(_ENTRY.size)
        if len(header) < _ENTRY.size or not header.startswith(b"PK\1\2"):
            raise DamagedZip("its directory is damaged")
        _, _, _, flags, *_, checksum, packed, size, name_len, extra_len, comment_len, _, _, mode, offset = (
            _ENTRY.unpack(header)
        )
        raw, extra = file.read(name_len), file.read(extra_len)
        size, packed, offset = _sizes(extra, size, packed, offset)
        at += _ENTRY.size + name_len + extra_len + comment_len
        name = raw.decode("utf-8", "backslashreplace") if flags & _UTF_8 else raw.decode("cp437")
        kind = stat.S_IFMT(mode >> 16)
        yield Member(
            name,
            size,
            checksum,
            offset + shift,
            bool(flags & _ENCRYPTED),
            not name.endswith("/") and kind in {0, stat.S_IFREG},
            at,
        )


def read_member(file: BinaryIO, offset: int, size_bytes: int, checksum: int) -> bytes:
    """Return the content of the member whose local header is at ``offset``. Never unpack more than ``size_bytes``.

    Raise DamagedZip if it is damaged or of an unsupported kind.
    """
    _seek(file, offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise DamagedZip("its header is damaged")
    _, _, _, method, *_, name_len, extra_len = _LOCAL.unpack(header)
    _seek(file, offset + _LOCAL.size + name_len + extra_len)
    if method == _STORED:
        data = file.read(size_bytes)
    elif method == _DEFLATED:
        data = _inflate(file, size_bytes)
    else:
        raise DamagedZip(f"it is compressed with method {method}; write the zip file with the method deflate")
    if len(data) != size_bytes or zlib.crc32(data) != checksum:
        raise DamagedZip("its content is damaged")
    return data


def _inflate(file: BinaryIO, size_bytes: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces: list[bytes] = []
    left = size_bytes + 1  # one more, to notice a member that is larger than it declares
    try:
        while left > 0 and not inflater.eof:
            packed = inflater.unconsumed_tail or file.read(_PIECE_BYTES)
            if not packed:
                break
            piece = inflater.decompress(packed, left)
            left -= len(piece)
            pieces.append(piece)
    except zlib.error:
        raise DamagedZip("its content is damaged") from None
    return b"".join(pieces)


def _find_directory(file: BinaryIO) -> tuple[int, int, int]:
    """Return where the central directory begins and ends, and how many bytes come before the zip file itself."""
    total = file.seek(0, 2)
    tail_at = max(0, total - _END.size - _MAX_COMMENT_BYTES)
    file.seek(tail_at)
    tail = file.read(total - tail_at)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < _END.size:
        raise DamagedZip("it has no directory, so it is incomplete")
    end = tail_at + found
    *_, size, offset, _ = _END.unpack_from(tail, found)
    locator = found - _LOCATOR_64.size
    if locator >= 0 and tail[locator:].startswith(b"PK\6\7"):
        at = _LOCATOR_64.unpack_from(tail, locator)[2]
        _seek(file, at)
        record = file.read(_END_64.size)
        if len(record) < _END_64.size or not record.startswith(b"PK\6\6"):
            raise DamagedZip("its directory is damaged")
        *_, size, offset = _END_64.unpack(record)
        end = at
    shift = end - size - offset
    if shift < 0:
        raise DamagedZip("its directory is damaged")
    return offset + shift, end, shift


def _seek(file: BinaryIO, offset: int) -> None:
    """Go to a position that the zip file names. It may be beyond the end, where nothing can be read."""
    try:
        file.seek(offset)
    except (ValueError, OverflowError):
        raise DamagedZip("it names a position that no file has") from None


def _sizes(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the sizes and the offset, from the extra field for zip64 where the entry itself has no room for them."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            numbers = iter(struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8]))
            try:
                return tuple(next(numbers)[0] if number == _UNKNOWN else number for number in (size, packed, offset))  # type: ignore[return-value]
            except (RuntimeError, StopIteration):
                raise DamagedZip("its directory is damaged") from None
        at += 4 + length
    return size, packed, offset

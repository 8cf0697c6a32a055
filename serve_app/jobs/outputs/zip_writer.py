"""A writer of zip files with any number of members in a fixed amount of memory.

Python's ``zipfile`` keeps an object for each member. This writer keeps the archive's directory in a temporary file.
All members have the same date, so the same members give the same bytes.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import zlib
from typing import BinaryIO, Self

_VERSION = 45  # the version of the format that has ZIP64
_UTF8 = 1 << 11
_DEFLATED = 8
_TIME, _DATE = 0, (1 << 5) | 1  # 1980-01-01, the earliest date of the format
_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF
_REGULAR_FILE = 0o100644 << 16  # the attributes of a file on Unix
_UNIX = 3 << 8


class ZipWriter:
    """Writes a zip file to a file that need not be seekable. Use it in a ``with`` block."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._directory = tempfile.TemporaryFile()  # noqa: SIM115  # ``__exit__`` closes it
        self._count = 0
        self._offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._directory:
            if kind is None:
                self._finish()

    def add(self, name: str, data: bytes) -> None:
        """Add a member of up to 4 GiB."""
        encoded = name.encode()
        squeezer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = squeezer.compress(data) + squeezer.flush()
        common = (_VERSION, _UTF8, _DEFLATED, _TIME, _DATE, zlib.crc32(data), len(packed), len(data), len(encoded))
        extra = struct.pack("<HHQ", 1, 8, self._offset) if self._offset >= _MAX_32 else b""
        self._directory.write(
            struct.pack("<4sH5H3L5H2L", b"PK\1\2", _UNIX | _VERSION, *common, len(extra), 0, 0, 0, _REGULAR_FILE,
                        min(self._offset, _MAX_32))
            + encoded
            + extra
        )  # fmt: skip
        self._write(struct.pack("<4s5H3L2H", b"PK\3\4", *common, 0) + encoded + packed)
        self._count += 1

    def _finish(self) -> None:
        start, size = self._offset, self._directory.tell()
        self._directory.seek(0)
        shutil.copyfileobj(self._directory, self._file)
        self._offset += size
        if self._count >= _MAX_16 or self._offset >= _MAX_32:
            end = self._offset
            counts = (self._count, self._count, size, start)
            self._write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, *counts))
            self._write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        count = min(self._count, _MAX_16)
        self._write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, min(size, _MAX_32), min(start, _MAX_32), 0))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._offset += len(data)

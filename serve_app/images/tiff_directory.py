"""Read the directories of a TIFF (revision 6.0, section 2) or BigTIFF. A directory holds the tags of one image."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import Undecodable
from serve_app.images.limits import unreadable_header

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, ORIENTATION, SAMPLES, PLANAR, TILE_WIDTH, TILE_HEIGHT = 266, 274, 277, 284, 322, 323
STRIP_OFFSETS, STRIP_ROWS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 278, 279, 324, 325
COLOUR_MAP, SUB_DIRECTORIES, EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING, XMP, DNG = 320, 330, 338, 339, 530, 700, 50706
KEPT_TAGS = {  # tags that the decoder needs: the layout and the colours of an image
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANAR,
    292, 293, 317, COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, 332, SAMPLE_FORMAT, 347, 529,
    SUBSAMPLING, 531, 532,
}  # fmt: skip
READ_TAGS = KEPT_TAGS | {SUBFILE, ORIENTATION, SUB_DIRECTORIES, EXTRA_SAMPLES, XMP, DNG}
_KINDS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # BYTE, SHORT, LONG, IFD, LONG8
_SIGNED = {6: "b", 8: "h", 9: "i"}  # SBYTE, SSHORT, SLONG: some writers use them for the orientation
_MAX_DIRECTORIES = 64


@dataclass(frozen=True)
class File:
    """A file and the format of its numbers. Offsets have 4 bytes in TIFF and 8 bytes in BigTIFF."""

    data: bytes
    order: str
    is_big: bool

    def numbers(self, layout: str, at: int) -> tuple[int, ...]:
        """Return numbers in the file's byte order. Raise Undecodable when the numbers are outside the file."""
        if at + struct.calcsize("=" + layout) > len(self.data):
            raise Undecodable("the image's header is truncated")
        return struct.unpack_from(self.order + layout, self.data, at)

    @property
    def offset_format(self) -> str:
        """The ``struct`` format of an offset or of a count of values."""
        return "Q" if self.is_big else "I"

    @property
    def count_format(self) -> str:
        """The ``struct`` format of a count of entries."""
        return "Q" if self.is_big else "H"

    @property
    def entry_bytes(self) -> int:
        """The size of a directory entry."""
        return 20 if self.is_big else 12

    @property
    def value_bytes(self) -> int:
        """The size of the value inside an entry."""
        return 8 if self.is_big else 4


class Directory:
    """The tags of one image. Only tags in ``READ_TAGS`` are stored, and only the first entry of a repeated tag."""

    def __init__(self, file: File, start: int) -> None:
        (count,) = file.numbers(file.count_format, start)
        self._file = file
        self._entries: dict[int, bytes] = {}
        at = start + struct.calcsize("=" + file.count_format)
        self.end = at + count * file.entry_bytes
        if self.end > len(file.data):
            raise Undecodable("the image's header is truncated")
        for position in range(at, self.end, file.entry_bytes):
            (tag,) = file.numbers("H", position)
            if tag in READ_TAGS and tag not in self._entries:
                self._entries[tag] = file.data[position : position + file.entry_bytes]

    def values(self, tag: int, max_count: int = 8) -> tuple[int, ...]:
        """Return the numbers of a tag, or an empty tuple when the tag is absent."""
        if tag not in self._entries:
            return ()
        entry = self._entries[tag]
        kind, count = struct.unpack_from(f"{self._file.order}H{self._file.offset_format}", entry, 2)
        kinds = _KINDS | _SIGNED if tag == ORIENTATION else _KINDS
        if kind not in kinds or count > max_count:
            raise unreadable_header()
        layout = f"{count}{kinds[kind]}"
        if struct.calcsize("=" + layout) <= self._file.value_bytes:
            return struct.unpack_from(self._file.order + layout, entry, self._file.entry_bytes - self._file.value_bytes)
        return self._file.numbers(layout, self._value_offset(entry))

    def value(self, tag: int, default: int) -> int:
        """Return the single number of a tag, or ``default`` when the tag is absent."""
        found = self.values(tag, 1)
        return found[0] if found else default

    def bytes_of(self, tag: int, max_count: int) -> bytes | None:
        """Return the bytes that a tag points to, or None when the tag is absent."""
        if tag not in self._entries:
            return None
        entry = self._entries[tag]
        _, count = struct.unpack_from(f"{self._file.order}H{self._file.offset_format}", entry, 2)
        position = self._value_offset(entry)
        return self._file.data[position : position + min(count, max_count)]

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def array(self, tag: int) -> NDArray[np.uint64]:
        """Return all numbers of a tag. Raise Undecodable when some numbers are missing."""
        if tag not in self._entries:
            return np.zeros(0, np.uint64)
        entry = self._entries[tag]
        kind, count = struct.unpack_from(f"{self._file.order}H{self._file.offset_format}", entry, 2)
        if kind not in _KINDS:
            raise unreadable_header()
        number = np.dtype(self._file.order + _KINDS[kind])
        if count * number.itemsize <= self._file.value_bytes:
            source, at = entry, self._file.entry_bytes - self._file.value_bytes
        else:
            source, at = self._file.data, self._value_offset(entry)
        if at + count * number.itemsize > len(source):
            raise Undecodable("the image is truncated")
        return np.frombuffer(source, number, count, at).astype(np.uint64)

    def kept(self) -> dict[int, bytes]:
        """Return the entries that the decoder needs, by tag."""
        return {tag: entry for tag, entry in self._entries.items() if tag in KEPT_TAGS}

    def _value_offset(self, entry: bytes) -> int:
        at = self._file.entry_bytes - self._file.value_bytes
        position: int = struct.unpack_from(self._file.order + self._file.offset_format, entry, at)[0]
        return position


def directories(file: File) -> Iterator[Directory]:
    """Yield the directories of the file in their order."""
    (at,) = file.numbers("Q", 8) if file.is_big else file.numbers("I", 4)
    for _ in range(_MAX_DIRECTORIES):
        if not at:
            return
        directory = Directory(file, at)
        yield directory
        try:
            (at,) = file.numbers(file.offset_format, directory.end)
        except Undecodable:
            return

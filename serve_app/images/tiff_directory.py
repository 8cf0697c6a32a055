"""The directories of a TIFF (revision 6.0, section 2) and of a BigTIFF: what is said of each picture of the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import Undecodable
from serve_app.images.limits import unread

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, ORIENTATION, SAMPLES, PLANAR, TILE_WIDTH, TILE_HEIGHT = 266, 274, 277, 284, 322, 323
STRIP_OFFSETS, STRIP_ROWS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 278, 279, 324, 325
COLOUR_MAP, SUB_DIRECTORIES, EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING, XMP, DNG = 320, 330, 338, 339, 530, 700, 50706
KEPT = {  # of a picture's layout and colours
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANAR,
    292, 293, 317, COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, 332, SAMPLE_FORMAT, 347, 529,
    SUBSAMPLING, 531, 532,
}  # fmt: skip
LOOKED_AT = KEPT | {SUBFILE, ORIENTATION, SUB_DIRECTORIES, EXTRA_SAMPLES, XMP, DNG}
_KINDS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # BYTE, SHORT, LONG, IFD, LONG8
_SIGNED = {6: "b", 8: "h", 9: "i"}  # SBYTE, SSHORT, SLONG: of an orientation
_MAX_DIRECTORIES = 64


@dataclass(frozen=True)
class File:
    """The numbers of a file: TIFF's offsets have 4 bytes, BigTIFF's 8."""

    data: bytes
    order: str
    is_big: bool

    def numbers(self, layout: str, at: int) -> tuple[int, ...]:
        """Return numbers in the file's byte order. Raises Undecodable where they lie outside of it."""
        if at + struct.calcsize("=" + layout) > len(self.data):
            raise Undecodable("the picture's header is truncated")
        return struct.unpack_from(self.order + layout, self.data, at)

    @property
    def offset(self) -> str:
        """Return the layout of an offset, and of a count of values."""
        return "Q" if self.is_big else "I"

    @property
    def count(self) -> str:
        """Return the layout of a count of entries."""
        return "Q" if self.is_big else "H"

    @property
    def entry_bytes(self) -> int:
        """Return how large an entry is."""
        return 20 if self.is_big else 12

    @property
    def value_bytes(self) -> int:
        """Return how large its value is."""
        return 8 if self.is_big else 4


class Directory:
    """The tags of a picture that are looked at, the first of each."""

    def __init__(self, file: File, start: int) -> None:
        (count,) = file.numbers(file.count, start)
        self._file = file
        self._entries: dict[int, bytes] = {}
        at = start + struct.calcsize("=" + file.count)
        self.end = at + count * file.entry_bytes
        if self.end > len(file.data):
            raise Undecodable("the picture's header is truncated")
        for place in range(at, self.end, file.entry_bytes):
            (tag,) = file.numbers("H", place)
            if tag in LOOKED_AT and tag not in self._entries:
                self._entries[tag] = file.data[place : place + file.entry_bytes]

    def values(self, tag: int, most: int = 8) -> tuple[int, ...]:
        """Return the numbers of a tag; none where it is not there."""
        if tag not in self._entries:
            return ()
        entry = self._entries[tag]
        kind, count = struct.unpack_from(f"{self._file.order}H{self._file.offset}", entry, 2)
        kinds = _KINDS | _SIGNED if tag == ORIENTATION else _KINDS
        if kind not in kinds or count > most:
            raise unread()
        layout = f"{count}{kinds[kind]}"
        if struct.calcsize("=" + layout) <= self._file.value_bytes:
            return struct.unpack_from(self._file.order + layout, entry, self._file.entry_bytes - self._file.value_bytes)
        return self._file.numbers(layout, self._place(entry))

    def value(self, tag: int, default: int) -> int:
        """Return the one number of a tag."""
        found = self.values(tag, 1)
        return found[0] if found else default

    def bytes_of(self, tag: int, most: int) -> bytes | None:
        """Return what lies where a tag points to."""
        if tag not in self._entries:
            return None
        entry = self._entries[tag]
        _, count = struct.unpack_from(f"{self._file.order}H{self._file.offset}", entry, 2)
        place = self._place(entry)
        return self._file.data[place : place + min(count, most)]

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def array(self, tag: int) -> NDArray[np.uint64]:
        """Return the numbers of a tag, however many. Raises Undecodable where they are not all there."""
        if tag not in self._entries:
            return np.zeros(0, np.uint64)
        entry = self._entries[tag]
        kind, count = struct.unpack_from(f"{self._file.order}H{self._file.offset}", entry, 2)
        if kind not in _KINDS:
            raise unread()
        number = np.dtype(self._file.order + _KINDS[kind])
        if count * number.itemsize <= self._file.value_bytes:
            source, at = entry, self._file.entry_bytes - self._file.value_bytes
        else:
            source, at = self._file.data, self._place(entry)
        if at + count * number.itemsize > len(source):
            raise Undecodable("the picture is truncated")
        return np.frombuffer(source, number, count, at).astype(np.uint64)

    def kept(self) -> dict[int, bytes]:
        """Return the entries of the picture's layout and colours."""
        return {tag: entry for tag, entry in self._entries.items() if tag in KEPT}

    def _place(self, entry: bytes) -> int:
        at = self._file.entry_bytes - self._file.value_bytes
        place: int = struct.unpack_from(self._file.order + self._file.offset, entry, at)[0]
        return place


def directories(file: File) -> Iterator[Directory]:
    """Yield the directories of a file's pictures, one after the other."""
    (at,) = file.numbers("Q", 8) if file.is_big else file.numbers("I", 4)
    for _ in range(_MAX_DIRECTORIES):
        if not at:
            return
        directory = Directory(file, at)
        yield directory
        try:
            (at,) = file.numbers(file.offset, directory.end)
        except Undecodable:
            return

"""Read the data and properties of the items of a HEIF file (ISO/IEC 23008-12, based on ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from serve_app.errors import Undecodable
from serve_app.images.limits import MAX_PARTS, unreadable_header, unsupported

# The limit on the size of the meta box. The items' data in that box (idat) do not count towards this limit. The meta
# box of a phone's image with 200 items has 10 kB.
_MAX_META_BYTES = 1 << 20
_IN_FILE, _IN_META = 0, 1  # construction methods of iloc; method 2 takes the data from another item


@dataclass(frozen=True)
class Property:
    """A property of an item: the kind and the raw body of the property's box."""

    kind: bytes
    body: bytes


@dataclass
class Item:
    """An image, a tile of an image, or auxiliary data."""

    kind: bytes = b""
    method: int = _IN_FILE
    extents: list[tuple[int, int]] = field(default_factory=list)  # offset, bytes
    properties: list[Property] = field(default_factory=list)
    made_of: list[int] = field(default_factory=list)
    is_premultiplied: bool = False

    def first_property(self, kind: bytes) -> bytes | None:
        """Return the body of the first property of this kind, or None."""
        return next((each.body for each in self.properties if each.kind == kind), None)


@dataclass(frozen=True)
class Items:
    """The items of a file, by their ids."""

    primary: int
    by_id: dict[int, Item]
    _file: bytes
    _own_data: bytes

    def __getitem__(self, number: int) -> Item:
        if number not in self.by_id:
            raise unreadable_header()
        return self.by_id[number]

    def payload(self, item: Item) -> bytes:
        """Return the item's bytes. Raise Undecodable when some bytes are missing."""
        if item.method not in (_IN_FILE, _IN_META):
            raise unsupported("a HEIF image whose data are part of another item")
        source = self._file if item.method == _IN_FILE else self._own_data
        # An extent of size 0 continues to the end of ``source``.
        extents = [(at, size or len(source) - at) for at, size in item.extents]
        if not extents or any(size <= 0 or at + size > len(source) for at, size in extents):
            raise Undecodable("the image is truncated")
        if sum(size for _, size in extents) > len(source):
            raise Undecodable("the image's parts have more bytes than its file")
        return b"".join(source[at : at + size] for at, size in extents)


class _Reader:
    """A cursor that reads one big-endian number after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def number(self, size: int) -> int:
        end = self.at + size
        if end > len(self._data):
            raise unreadable_header()
        value = int.from_bytes(self._data[self.at : end], "big")
        self.at = end
        return value

    def full_box(self) -> tuple[int, int]:
        """Return the version and the flags of a full box."""
        return self.number(1), self.number(3)


def boxes(data: bytes, start: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box and the start and end of its body. A truncated box ends where the data end."""
    for _ in range(MAX_PARTS):
        if start + 8 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        elif size == 0:
            size = len(data) - start
        if size < body - start:
            return
        yield kind, body, min(start + size, len(data))
        start += size
    raise Undecodable("the image has too many parts")


def read_items(data: bytes) -> Items:
    """Return the items of a file. Raise Undecodable on failure."""
    meta = next(((start, end) for kind, start, end in boxes(data) if kind == b"meta"), None)
    if meta is None:
        raise unsupported("a HEIF or AVIF sequence without a still image")
    # If several boxes have the same kind, we use the first one.
    boxes_by_kind = {kind: (start, end) for kind, start, end in reversed(list(boxes(data[: meta[1]], meta[0] + 4)))}
    if sum(end - start for kind, (start, end) in boxes_by_kind.items() if kind != b"idat") > _MAX_META_BYTES:
        raise Undecodable("the image's header is far larger than an image needs")

    def body(kind: bytes) -> bytes:
        start, end = boxes_by_kind.get(kind, (0, 0))
        return data[start:end]

    items: dict[int, Item] = {}
    _read_kinds(items, body(b"iinf"))
    _read_locations(items, body(b"iloc"))
    _read_properties(items, body(b"iprp"))
    _read_references(items, body(b"iref"))
    primary = _Reader(body(b"pitm"))
    version, _ = primary.full_box()
    return Items(primary.number(2 if version == 0 else 4), items, data, body(b"idat"))


def _read_kinds(items: dict[int, Item], data: bytes) -> None:
    version = data[0] if data else 0
    for kind, start, end in boxes(data, 6 if version == 0 else 8):
        if kind == b"infe" and data[start : start + 1] in (b"\2", b"\3"):
            entry = _Reader(data[start:end])
            entry_version, _ = entry.full_box()
            number = entry.number(2 if entry_version == 2 else 4)
            entry.number(2)  # skip the protection index
            items.setdefault(number, Item()).kind = entry.number(4).to_bytes(4, "big")


def _read_locations(items: dict[int, Item], data: bytes) -> None:
    reader = _Reader(data)
    version, _ = reader.full_box()
    sizes = reader.number(2)
    parts_left = MAX_PARTS
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(reader.number(4 if version == 2 else 2)):
        item = items.setdefault(reader.number(4 if version == 2 else 2), Item())
        if version:
            item.method = reader.number(2) & 15
        if reader.number(2):
            raise unsupported("a HEIF image whose data are in another file")
        base = reader.number(base_size)
        item.extents.clear()
        extents = reader.number(2)
        parts_left -= 1 + extents
        if parts_left < 0:
            raise Undecodable("the image has too many parts")
        for _ in range(extents):
            if version:
                reader.number(index_size)
            item.extents.append((base + reader.number(offset_size), reader.number(length_size)))


def _read_properties(items: dict[int, Item], data: bytes) -> None:
    boxes_by_kind = {kind: data[start:end] for kind, start, end in boxes(data)}
    known = boxes_by_kind.get(b"ipco", b"")
    properties = [Property(kind, known[start:end]) for kind, start, end in boxes(known)]
    reader = _Reader(boxes_by_kind.get(b"ipma", b""))
    version, flags = reader.full_box()
    for _ in range(reader.number(4)):
        item = items.setdefault(reader.number(4 if version else 2), Item())
        item.properties.clear()
        for _ in range(reader.number(1)):
            index = reader.number(2) & 0x7FFF if flags & 1 else reader.number(1) & 0x7F
            if 0 < index <= len(properties):
                item.properties.append(properties[index - 1])


def _read_references(items: dict[int, Item], data: bytes) -> None:
    size = 4 if data[:1] == b"\1" else 2
    for kind, start, end in boxes(data, 4):
        reader = _Reader(data[start:end])
        item = items.setdefault(reader.number(size), Item())
        others = [reader.number(size) for _ in range(reader.number(2))]
        if kind == b"dimg":
            item.made_of = others
        elif kind == b"prem":
            item.is_premultiplied = True

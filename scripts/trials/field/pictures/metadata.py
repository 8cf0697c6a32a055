"""EXIF and XMP as phones, cameras and editors write them."""

from __future__ import annotations

import random
import struct

PREFIX = b"Exif\0\0"


def exif(rng: random.Random, orientation: int, thumbnail: bytes = b"") -> bytes:
    """Return an EXIF block in a random byte order, with the orientation among other tags."""
    order = rng.choice("<>")
    entries = [
        (0x010E, 2, 4, b"abc\0"),
        (0x0112, 3, 1, struct.pack(f"{order}HH", orientation, 0)),
        (0x0213, 3, 1, struct.pack(f"{order}HH", 1, 0)),
    ]
    if rng.random() < 0.3:
        entries[1] = (0x0112, 4, 1, struct.pack(f"{order}I", orientation))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    directory = struct.pack(f"{order}H", len(entries))
    directory += b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    after = 8 + len(directory) + 4
    if not thumbnail:
        return head + directory + bytes(4)
    second = struct.pack(f"{order}H", 2)
    second += struct.pack(f"{order}HHII", 0x0201, 4, 1, after + 30)
    second += struct.pack(f"{order}HHII", 0x0202, 4, 1, len(thumbnail)) + bytes(4)
    return head + directory + struct.pack(f"{order}I", after) + second + thumbnail


def xmp(orientation: int) -> bytes:
    """Return an XMP packet with the orientation."""
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
        % orientation
    )

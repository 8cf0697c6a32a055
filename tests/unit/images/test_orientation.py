"""Images with an orientation.

Different programs store the orientation as different data types and in different parts of a file.
"""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from scripts.trials.damage import png_chunk, split
from scripts.trials.field.pictures import jpeg, metadata, phones, tiff
from scripts.trials.field.pictures.comparison import MAX_PIXELS
from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.scenes import Pixels, smooth, upright
from serve_app.images.decode import decode

PIXELS = smooth(random.Random(7), 30, 20)
IMAGE = Image.fromarray(PIXELS)


def block(head: bytes, kind: int, count: int, value: bytes, after: bytes = b"") -> bytes:
    order = "<" if head.startswith(b"II") else ">"
    return head + struct.pack(f"{order}IHHHI", 8, 1, 0x112, kind, count) + value.ljust(4, b"\0") + bytes(4) + after


BLOCKS = {
    "two numbers": block(b"II*\0", 3, 2, b"\6\0\0\0"),
    "two numbers, big end first": block(b"MM\0*", 3, 2, b"\0\6\0\0"),
    "two long numbers": block(b"II*\0", 4, 2, b"\x1a\0\0\0", b"\6\0\0\0\1\0\0\0"),
    "II and 42 in the other order": block(b"II\0*", 3, 1, b"\6\0"),
    "MM and 42 in the other order": block(b"MM*\0", 3, 1, b"\0\6"),
    "signed": block(b"II*\0", 8, 1, b"\6\0"),
    "signed and long": block(b"MM\0*", 9, 1, b"\0\0\0\6"),
}


def read(data: bytes) -> Pixels:
    return decode(data, MAX_PIXELS)[:, :, ::-1]


def described_png(kind: bytes, body: bytes) -> bytes:
    head, *chunks = split(saved(IMAGE, "PNG"))
    return b"".join((head, chunks[0], png_chunk(kind, body), *chunks[1:]))


@pytest.mark.parametrize("name", BLOCKS)
def test_every_form_of_the_exif_orientation_is_applied(name: str) -> None:
    exif = BLOCKS[name]
    webp = phones.webp_with(saved(IMAGE, "WEBP", lossless=True), PIXELS.shape, [(b"EXIF", exif)])
    photo = saved(IMAGE, "JPEG")
    described = photo[:2] + jpeg.segment(0xE1, metadata.PREFIX + exif) + photo[2:]
    assert np.array_equal(read(webp), upright(PIXELS, 6))
    assert np.array_equal(read(described_png(b"eXIf", exif)), upright(PIXELS, 6))
    assert np.array_equal(read(described), upright(read(photo), 6))


def test_an_orientation_stored_outside_of_its_block_is_ignored() -> None:
    outside = block(b"II*\0", 4, 2, b"\xff\xff\xff\xff")
    assert np.array_equal(read(described_png(b"eXIf", outside)), PIXELS)


def test_exif_may_continue_in_a_second_segment() -> None:
    photo = saved(IMAGE, "JPEG")
    exif = b"II*\0" + struct.pack("<I", 70_000) + bytes(69_992) + BLOCKS["two numbers"][8:]
    parts = (jpeg.segment(0xE1, metadata.PREFIX + each) for each in (exif[:65_000], exif[65_000:]))
    assert np.array_equal(read(photo[:2] + b"".join(parts) + photo[2:]), upright(read(photo), 6))


def test_xmp_may_have_single_quotes_and_be_in_a_second_segment() -> None:
    photo = saved(IMAGE, "JPEG")
    name = b"http://ns.adobe.com/xap/1.0/\0"
    for each in (
        b"<a tiff:Orientation='6'/>",
        b'<a tiff:Orientation = "6"/>',
        b"<tiff:Orientation>6</tiff:Orientation>",
    ):
        parts = jpeg.segment(0xE1, name + b"<a/>") + jpeg.segment(0xE1, name + each)
        assert np.array_equal(read(photo[:2] + parts + photo[2:]), upright(read(photo), 6))


@pytest.mark.parametrize(("kind", "numbers"), [(3, (6, 0)), (3, (6, 0, 0)), (4, (6, 0)), (1, (6,))])
def test_the_orientation_of_a_tiff_may_have_several_numbers(kind: int, numbers: tuple[int, ...]) -> None:
    layout = tiff.Layout("<", False, 1, False, False, False, None, 16)
    assert np.array_equal(read(tiff.encoded(PIXELS, 2, 8, {274: (kind, numbers)}, layout)), upright(PIXELS, 6))


def profile(name: bytes, payload: bytes) -> bytes:
    return b"\n" + name + b"\n%8d\n" % len(payload) + payload.hex().encode() + b"\n"


EXIF, XMP = metadata.PREFIX + BLOCKS["two numbers"], metadata.xmp(6)
XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
TEXTS = {
    "XMP, compressed": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    "XMP with a language": (b"iTXt", b"XML:com.adobe.xmp\0\0\0en\0Name\0" + XMP),
    "EXIF": (b"iTXt", b"Raw profile type exif\0\0\0\0\0" + profile(b"exif", EXIF)),
    "EXIF, compressed": (b"iTXt", b"Raw profile type exif\0\1\0\0\0" + zlib.compress(profile(b"exif", EXIF))),
    "APP1": (b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(profile(b"APP1", EXIF))),
    "APP1, not compressed": (b"tEXt", b"Raw profile type APP1\0" + profile(b"APP1", EXIF)),
    "APP1 of XMP": (b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(profile(b"APP1", XMP_NAME + XMP))),
    "XMP as ImageMagick writes it": (b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(profile(b"xmp", XMP))),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_orientation_in_a_png_text_is_applied(name: str) -> None:
    assert np.array_equal(read(described_png(*TEXTS[name])), upright(PIXELS, 6))


@pytest.mark.parametrize("body", [b"", b"\0", b"\1", b"\1\0", b"\1\0\0\0", b"\1\0\0\0junk", b"\0\0a\0b"])
@pytest.mark.parametrize("name", [b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1"])
def test_a_broken_png_text_is_ignored(name: bytes, body: bytes) -> None:
    for kind in (b"tEXt", b"zTXt", b"iTXt"):
        assert np.array_equal(read(described_png(kind, name + b"\0" + body)), PIXELS)
        assert np.array_equal(read(described_png(kind, name)), PIXELS)

"""Cases of images. Each supported image must get the same detections as a plain PNG with the same pixels."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import cv2
import httpx
import numpy as np
from PIL import Image

from scripts.codes.samples import picture
from scripts.trials.damage import png_chunk, split
from scripts.trials.field.case import Case
from scripts.trials.field.pictures import bmp, heif, jpeg, metadata, phones, tiff
from scripts.trials.field.pictures.comparison import DIFFERENT, samples, verdict
from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.scenes import Pixels, upright

_WIDTH_PX, _HEIGHT_PX = 640, 360
_MOST_APART_PX = 6.0
_TIMEOUT_S = 60.0
_LAYOUT = tiff.Layout("<", False, 1, False, False, False, None, 16)

Make = Callable[[], bytes]


@cache
def pixels() -> Pixels:
    """Return the image from which most files are made. It shows parcels with codes."""
    small = cv2.resize(picture(3).pixels, (_WIDTH_PX, _HEIGHT_PX), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[:, :, ::-1])


def _rng() -> random.Random:
    return random.Random(19)


def _image(orientation: int = 1) -> Image.Image:
    """Return the image as stored by a camera that is held in this EXIF orientation."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    return Image.fromarray(upright(pixels(), inverse))


def _photo(**options: object) -> bytes:
    return saved(_image(), "JPEG", quality=95, **options)


def _with_segment(photo: bytes, marker: int, body: bytes) -> bytes:
    return photo[:2] + jpeg.segment(marker, body) + photo[2:]


def _grey_with_alpha() -> Pixels:
    grey = cv2.cvtColor(pixels(), cv2.COLOR_RGB2GRAY)
    return np.stack([grey, np.zeros_like(grey)], axis=2)


def _rgba(alpha: int) -> Pixels:
    return np.concatenate([pixels(), np.full((_HEIGHT_PX, _WIDTH_PX, 1), alpha, np.uint8)], axis=2)


def _deep() -> Any:
    return pixels().astype(np.uint16) * 257


def _behind() -> Iterator[tuple[str, Make]]:
    other = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    yield "an MP4 after a JPEG", lambda: jpeg.motion_photo(_rng(), _photo())
    yield "an MP4 after a progressive JPEG", lambda: jpeg.motion_photo(_rng(), _photo(progressive=True))
    yield "a JPEG after a JPEG", lambda: _photo() + other
    yield "forty JPEGs after a JPEG", lambda: _photo() + 40 * other
    yield "a ZIP after a JPEG", lambda: _photo() + b"PK\3\4" + b"\xff\xda" * 300
    yield "a multi-picture file", lambda: saved(_image(), "MPO", save_all=True, append_images=[_image().rotate(180)])
    yield (
        "a thumbnail in EXIF",
        lambda: _with_segment(_photo(), 0xE1, metadata.PREFIX + metadata.exif(_rng(), 1, other)),
    )
    yield "scans in a comment", lambda: _with_segment(_photo(), 0xFE, b"\xff\xda\xff\xd9" * 300)


def _turned() -> Iterator[tuple[str, Make]]:
    def webp(prefix: bytes) -> bytes:
        image = _image(6)
        block = prefix + metadata.exif(_rng(), 6)
        return phones.webp_with(saved(image, "WEBP", lossless=True), (image.height, image.width), [(b"EXIF", block)])

    def png(kind: bytes, body: bytes) -> bytes:
        head, first, *rest = split(saved(_image(6), "PNG"))
        return b"".join((head, first, png_chunk(kind, body), *rest))

    exif = metadata.exif(_rng(), 6)
    text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    yield "WebP as specified", lambda: webp(b"")
    yield "WebP with prefix", lambda: webp(metadata.PREFIX)
    yield "WebP with two prefixes", lambda: webp(2 * metadata.PREFIX)
    yield "PNG with prefix", lambda: png(b"eXIf", metadata.PREFIX + exif)
    yield "PNG with EXIF as text", lambda: png(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    yield (
        "JPEG with XMP alone",
        lambda: _with_segment(
            saved(_image(6), "JPEG", quality=95), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + metadata.xmp(6)
        ),
    )
    yield "JPEG with broken EXIF", lambda: _with_segment(_photo(), 0xE1, metadata.PREFIX + b"II*\0\xff\xff\xff\xff")
    for orientation in range(2, 9):
        tags = {274: (3, (orientation,))}
        values = np.asarray(_image(orientation))
        yield f"TIFF of orientation {orientation}", lambda v=values, t=tags: tiff.encoded(v, 2, 8, t, _LAYOUT)  # type: ignore[misc]


def _transparent() -> Iterator[tuple[str, Make]]:
    def of(values: Any, photometric: int, bits: int, alpha: int) -> Make:
        return lambda: tiff.encoded(values, photometric, bits, {338: (3, (alpha,))}, _LAYOUT)

    deep = np.concatenate([_deep(), np.zeros((_HEIGHT_PX, _WIDTH_PX, 1), np.uint16)], axis=2)
    yield "RGBA TIFF, alpha 0", of(_rgba(0), 2, 8, 2)
    yield "RGBA TIFF of 16 bits, alpha 0", of(deep, 2, 16, 2)
    yield "TIFF of four samples, one unspecified", of(_rgba(0), 2, 8, 0)
    yield "TIFF with colours multiplied by alpha", of(_rgba(255), 2, 8, 1)
    yield "grey TIFF with alpha", of(_grey_with_alpha(), 1, 8, 2)
    yield "RGBA PNG, alpha 0", lambda: saved(Image.fromarray(_rgba(0)), "PNG")
    yield "palette PNG with transparency", lambda: saved(_image().quantize(256), "PNG", transparency=bytes(256))
    yield "WebP with alpha 0", lambda: saved(Image.fromarray(_rgba(0)), "WEBP", lossless=True, exact=True)


def _bitmaps() -> Iterator[tuple[str, Make]]:
    few = _image().quantize(16)
    indices = np.asarray(few)[:, :-3]  # 637 columns, because rows of this width need padding
    palette = np.array(few.getpalette()[:48], np.uint8).reshape(-1, 3)  # type: ignore[index]

    def of(bits: int, compression: int, rows: Any, masks: bytes = b"", *, is_top_down: bool = False) -> bytes:
        height = -_HEIGHT_PX if is_top_down else _HEIGHT_PX
        info = struct.pack("<IiiHHIIiiII", 40, _WIDTH_PX, height, 1, bits, compression, 0, 0, 0, 0, 0) + masks
        head = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 14 + len(info))
        body: bytes = (rows if is_top_down else rows[::-1]).tobytes()
        return head + info + body

    red, green, blue = (pixels()[:, :, channel].astype(np.uint32) for channel in range(3))
    yield "runs of 8 bits, padded rows", lambda: bmp.runs(_rng(), indices, palette, 8)
    yield "runs of 4 bits, padded rows", lambda: bmp.runs(_rng(), indices, palette, 4)
    yield "runs without an end", lambda: bmp.runs(_rng(), indices, palette, 8, has_end=False)
    yield (
        "masks of 32 bits",
        lambda: of(32, 3, (red | green << 8 | blue << 16).astype("<u4"), struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)),
    )
    yield (
        "masks of 16 bits",
        lambda: of(
            16,
            3,
            (red >> 3 << 11 | green >> 2 << 5 | blue >> 3).astype("<u2"),
            struct.pack("<III", 0xF800, 0x7E0, 0x1F),
        ),
    )
    yield "top down", lambda: of(24, 0, pixels()[:, :, ::-1], is_top_down=True)


def _layouts() -> Iterator[tuple[str, Make]]:
    def of(values: Any, photometric: int, bits: int, layout: tiff.Layout, *, has_thumbnail: bool = False) -> Make:
        return lambda: tiff.encoded(values, photometric, bits, {}, layout, has_thumbnail=has_thumbnail)

    grey = cv2.cvtColor(pixels(), cv2.COLOR_RGB2GRAY)[:, :, None]
    yield "BigTIFF", of(pixels(), 2, 8, tiff.Layout("<", True, 8, True, False, False, None, 16))
    yield (
        "BigTIFF, most significant byte first",
        of(_deep(), 2, 16, tiff.Layout(">", True, 5, False, False, False, None, 7)),
    )
    yield (
        "tiles over the edge, 16 bits",
        of(65535 - grey.astype(np.uint16) * 257, 0, 16, tiff.Layout("<", False, 8, False, False, False, (96, 112), 1)),
    )
    yield "grey of 4 bits", of(grey >> 4, 1, 4, tiff.Layout("<", False, 32773, False, False, False, None, 16))
    yield "planes", of(pixels(), 2, 8, tiff.Layout("<", False, 5, False, True, False, None, 16))
    yield "a thumbnail first", of(pixels(), 2, 8, _LAYOUT, has_thumbnail=True)


def _phones() -> Iterator[tuple[str, Make]]:
    def tiled(image_format: str) -> bytes:
        side = 320
        wide = np.pad(pixels(), ((0, 2 * side - _HEIGHT_PX), (0, 0), (0, 0)), mode="edge")
        tiles = [
            heif.coded(saved(Image.fromarray(part), image_format, quality=90))
            for row in np.split(wide, 2)
            for part in np.split(row, 2, axis=1)
        ]
        parts = heif.grid(tiles, 2, _WIDTH_PX, _HEIGHT_PX)
        return heif.file(parts, len(parts), b"avif" if image_format == "AVIF" else b"heic")

    def turned_heic() -> bytes:
        still = heif.coded(saved(_image(6), "HEIF", quality=90))
        return heif.file([replace(still, properties=(*still.properties, heif.turn(270)))])

    block = Image.Exif()
    block[0x0112] = 6
    yield "AVIF", lambda: saved(_image(), "AVIF", quality=90, speed=9)
    yield "AVIF, turned", lambda: saved(_image(6), "AVIF", quality=90, speed=9, exif=block)
    yield "AVIF of tiles", lambda: tiled("AVIF")
    if phones.pillow_heif is not None:
        yield "HEIC", lambda: saved(_image(), "HEIF", quality=90)
        yield "HEIC, turned", turned_heic
        yield "HEIC of tiles", lambda: tiled("HEIF")
    yield "GIF", lambda: saved(_image().quantize(256), "GIF")
    yield (
        "GIF, animated, transparent",
        lambda: saved(
            _image().quantize(256),
            "GIF",
            save_all=True,
            append_images=[_image().rotate(180).quantize(256)],
            transparency=0,
        ),
    )
    yield "lossless JPEG", lambda: jpeg.lossless_of(pixels(), 4)
    yield "lossless JPEG, grey", lambda: jpeg.lossless_of(cv2.cvtColor(pixels(), cv2.COLOR_RGB2GRAY)[:, :, None], 1)


REFUSED: dict[str, tuple[bytes, str]] = {
    "JPEG XL": (b"\xff\x0a" + bytes(50), "this is JPEG XL"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "this is JPEG 2000"),
    "Photoshop": (b"8BPS\0\1" + bytes(50), "this is a Photoshop document"),
    "PDF": (b"%PDF-1.7\n", "this is a PDF document"),
    "icon": (b"\0\0\1\0\1\0" + bytes(50), "this is an icon"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "this is SVG"),
    "Fujifilm's raw file": (b"FUJIFILMCCD-RAW 0201" + bytes(50), "this is a camera's raw file"),
    "Canon's raw file": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "this is a camera's raw file"),
    "MP4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(50), "this is a video (MP4 or QuickTime)"),
    "data URL": (b"data:image/jpeg;base64,/9j/4AAQ", "base64-encoded"),
    "base64": (b"/9j/4AAQSkZJRgABAQ", "this is base64 text"),
    "zstd in TIFF": (tiff.encoded(np.zeros((8, 8, 3)), 2, 8, {}, _LAYOUT, instead={259: (3, (50000,))}), "zstd"),
    "Adobe's raw file (DNG)": (
        tiff.encoded(np.zeros((8, 8, 3)), 2, 8, {}, _LAYOUT, instead={254: (4, (1,)), 50706: (1, (1, 4, 0, 0))}),
        "a camera's raw file",
    ),
}


def _answer(url: str, data: bytes) -> httpx.Response:
    return httpx.post(f"{url}/detect", content=data, timeout=_TIMEOUT_S, trust_env=False)


def _plain(shape: tuple[int, ...]) -> bytes:
    """Return the image as a plain PNG, cropped to ``shape`` because some files lack a few columns."""
    return saved(Image.fromarray(pixels()[: shape[0], : shape[1]]), "PNG")


def _read(make: Make) -> Callable[[str], str | None]:
    def problem(url: str) -> str | None:
        answer = _answer(url, make())
        if answer.status_code != 200:
            return f"it is refused: {answer.text}"
        size = answer.json()["image"]
        if not (_WIDTH_PX - 3 <= size["width"] <= _WIDTH_PX and size["height"] == _HEIGHT_PX):
            return f"it is read as {size['width']}×{size['height']} pixels"
        expected = _answer(url, _plain((size["height"], size["width"]))).json()["detections"]
        return _difference(answer.json()["detections"], expected)

    return problem


def _difference(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> str | None:
    """Describe a confident detection in ``expected`` that has no match in ``found``.

    Return None if every confident detection has a match. ``expected`` has the detections of the plain image.
    """
    confident = [each for each in expected if each["confidence"] > 0.7]
    if not confident:
        return "nothing is detected in the plain image"
    for each in confident:
        box = np.array(list(each["bbox"].values()))
        if not any(
            other["label"] == each["label"]
            and np.abs(np.array(list(other["bbox"].values())) - box).max() <= _MOST_APART_PX
            for other in found
        ):
            return f"{each['label']} at {box.round().tolist()} is not detected"
    return None


def _refused(data: bytes, words: str) -> Callable[[str], str | None]:
    def problem(url: str) -> str | None:
        answer = _answer(url, data)
        if answer.status_code in (415, 422) and words in answer.json()["detail"]:
            return None
        return f"the answer is {answer.status_code}: {answer.text[:200]}"

    return problem


def _generated(count: int) -> Callable[[str], str | None]:
    def problem(_: str) -> str | None:
        found = (verdict(*each) for each in samples(0, count))
        return next((f"{each.name}: {each.remark}" for each in found if each.result == DIFFERENT), None)

    return problem


_KINDS: dict[str, Callable[[], Iterator[tuple[str, Make]]]] = {
    "data after or inside a JPEG": _behind,
    "orientations, and prefixes of EXIF": _turned,
    "alpha": _transparent,
    "BMPs": _bitmaps,
    "layouts of TIFFs": _layouts,
    "formats of phones and cameras": _phones,
}

CASES: tuple[Case, ...] = (
    *(Case(kind, member, _read(make)) for kind, members in _KINDS.items() for member, make in members()),
    *(Case("unsupported formats", name, _refused(*each)) for name, each in REFUSED.items()),
    Case("generated images", "100 of them", _generated(100)),
    Case("generated images", "2,000 of them", _generated(2000), is_quick=False),
)

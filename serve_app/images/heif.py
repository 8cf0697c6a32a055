"""Decode HEIC (HEVC, ISO/IEC 23008-12) and AVIF (AV1, AVIF 1.1) images, with or without a grid of tiles.

FFmpeg decodes each image or tile through PyAV. If a frame is larger than the file says, we refuse the image. Alpha is a
separate image in these files, and is ignored.
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np

from serve_app.errors import Undecodable
from serve_app.images import orientation
from serve_app.images.ffmpeg import decode_with_ffmpeg
from serve_app.images.isobmff import Item, Items, Property, read_items
from serve_app.images.limits import MAX_PARTS, check_size, unreadable_header, unsupported
from serve_app.images.yuv import Colours, to_bgr
from serve_app.types import Pixels

_HEVC, _AV1, _GRID, _IDENTITY = (b"hvc1", b"hev1"), b"av01", b"grid", b"iden"
_TONE_MAP = b"tmap"  # an HDR image, derived from several inputs; the first input is an ordinary image (ISO 21496-1)
_UNSUPPORTED_KINDS = {
    b"jpeg": "JPEG data", b"avc1": "H.264 data", b"vvc1": "H.266 data", b"j2k1": "JPEG 2000 data",
    b"unci": "uncompressed pixels",
    b"iovl": "several overlaid images",
}  # fmt: skip
_UNSUPPORTED_PROPERTIES = {b"a1op": "several operating points", b"lsel": "several layers"}
_MAX_SLICES = 100  # decoding a slice may cost as much as decoding a whole image; phones write one slice per image
_MAX_TILE_AREA_RATIO = 2  # the total area of the tiles may be at most this multiple of ``max_pixels``
_MAX_TILES = 1024  # a phone's image of 50 megapixels has 192 tiles
_MIRROR_ORIENTATIONS = {0: 4, 1: 2}  # the axis of imir -> Exif orientation
_ROTATION_ORIENTATIONS = {0: 1, 1: 8, 2: 3, 3: 6}  # the anticlockwise quarter turns of irot -> Exif orientation
_AV1_FRAMES = (3, 6)  # OBU_FRAME_HEADER, OBU_FRAME (AV1 specification, 6.2.2)


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the file's primary image. Raise TooLarge or Undecodable on failure."""
    items = read_items(data)
    return _Decoder(items, max_pixels, len(data)).pixels(items[items.primary])


class _Decoder:
    """Decoder of one file. In total, it decodes at most as many bytes as the file has, even when tiles share bytes."""

    def __init__(self, items: Items, max_pixels: int, file_bytes: int) -> None:
        self._items = items
        self._max_pixels = max_pixels
        self._bytes_left = file_bytes

    def pixels(self, item: Item, depth: int = 0) -> Pixels:
        """Return an item's pixels with its rotation, mirroring and cropping applied."""
        for kind, name in _UNSUPPORTED_PROPERTIES.items():
            if item.first_property(kind) is not None:
                raise unsupported(f"a HEIF or AVIF image with {name}")
        if item.is_premultiplied:
            raise unsupported("a HEIF or AVIF image with premultiplied alpha")
        if item.kind in (*_HEVC, _AV1):
            width, height = self._size(item)
            pixels = self._decode(item, width, height, item)
        elif item.kind == _GRID:
            pixels = self._grid(item)
        elif item.kind in (_IDENTITY, _TONE_MAP) and item.made_of and depth == 0:
            pixels = self.pixels(self._items[item.made_of[0]], depth + 1)
        else:
            raise unsupported(f"a HEIF file with {_UNSUPPORTED_KINDS.get(item.kind, 'an unknown kind of item')}")
        return _apply_properties(pixels, item)

    def _size(self, item: Item) -> tuple[int, int]:
        body = item.first_property(b"ispe")
        if body is None:
            raise unreadable_header()
        width, height = struct.unpack_from(">II", body, 4)
        check_size(width, height, self._max_pixels)
        return width, height

    def _grid(self, item: Item) -> Pixels:
        head = self._items.payload(item)
        rows, columns = head[2] + 1, head[3] + 1
        width, height = struct.unpack_from(">II" if head[1] & 1 else ">HH", head, 4)
        check_size(width, height, self._max_pixels)
        tiles = [self._items[number] for number in item.made_of]
        if len(tiles) != rows * columns or any(tile.kind not in (*_HEVC, _AV1) for tile in tiles):
            raise unreadable_header()
        tile_width, tile_height = self._size(tiles[0])
        if len(tiles) > _MAX_TILES:
            raise Undecodable("the image has too many tiles")
        if tile_width * tile_height * len(tiles) > _MAX_TILE_AREA_RATIO * self._max_pixels:
            raise Undecodable("the image's tiles are far larger than the image")
        pixels = np.empty((height, width, 3), np.uint8)
        for number, tile in enumerate(tiles):
            tile_pixels = _apply_properties(self._decode(tile, *self._size(tiles[0]), item), tile)
            if number == 0:
                tile_height, tile_width = tile_pixels.shape[:2]
                if tile_width * columns < width or tile_height * rows < height:
                    raise unreadable_header()
            if tile_pixels.shape[:2] != (tile_height, tile_width):
                raise unreadable_header()
            top, left = number // columns * tile_height, number % columns * tile_width
            target = pixels[top : top + tile_height, left : left + tile_width]
            target[:] = tile_pixels[: target.shape[0], : target.shape[1]]
        return pixels

    def _decode(self, item: Item, width: int, height: int, whole: Item) -> Pixels:
        data = self._items.payload(item)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise Undecodable("the image's parts have more bytes than its file")
        is_av1 = item.kind == _AV1
        config = item.first_property(b"av1C" if is_av1 else b"hvcC")
        if config is None or len(config) < 4:
            raise unreadable_header()
        if is_av1:
            _check_av1(data)
        else:
            _check_hevc(data, config)
        frame = decode_with_ffmpeg("libdav1d" if is_av1 else "hevc", config, data, width, height)
        return to_bgr(frame, _colours(item) or _colours(whole))


def _colours(item: Item) -> Colours | None:
    """Return the item's colour description (nclx, ISO/IEC 14496-12, 12.1.5).

    It overrides the colour description of the bitstream.
    """
    for each in item.properties:
        if each.kind == b"colr" and each.body.startswith(b"nclx") and len(each.body) >= 11:
            (matrix,) = struct.unpack_from(">H", each.body, 8)
            return Colours(matrix, is_full_range=bool(each.body[10] & 0x80))
    return None


def _check_hevc(data: bytes, config: bytes) -> None:
    """Raise Undecodable if a slice depends on other images, or if there are too many slices or too many parts."""
    if len(config) < 23:
        raise unreadable_header()
    length_size = (config[21] & 3) + 1
    at = slices = 0
    for _ in range(MAX_PARTS):
        if at + length_size >= len(data):
            return
        size = int.from_bytes(data[at : at + length_size], "big")
        # Slices of the kinds 16 to 21 depend on no other image (ITU-T H.265, table 7-1).
        kind = data[at + length_size] >> 1 & 0x3F
        if kind < 32:
            slices += 1
            if slices > _MAX_SLICES or not 16 <= kind <= 21:
                raise Undecodable("the image has too many slices, or is part of a video")
        at += length_size + size
    raise Undecodable("the image has too many parts")


def _check_av1(data: bytes) -> None:
    """Raise Undecodable unless the data have exactly one frame."""
    at = frames = 0
    for _ in range(MAX_PARTS):
        if at >= len(data):
            break
        header = data[at]
        frames += header >> 3 & 15 in _AV1_FRAMES
        if not header & 2:  # a unit without a size is the last unit
            break
        at += 2 if header & 4 else 1
        size = shift = 0
        while at < len(data):
            byte = data[at]
            size |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not byte & 0x80 or shift > 28:
                break
        at += size
    else:
        raise Undecodable("the image has too many parts")
    if frames != 1:
        raise unsupported("an AVIF image with several frames or layers")


def _apply_properties(pixels: Pixels, item: Item) -> Pixels:
    """Apply the properties of an item or a tile to its pixels, in file order."""
    for each in item.properties:
        pixels = _apply_property(pixels, each)
    return pixels


def _apply_property(pixels: Pixels, applied: Property) -> Pixels:
    """Apply one property if it rotates, mirrors or crops (23008-12, 6.5.9 to 6.5.12)."""
    match applied.kind:
        case b"irot":
            return orientation.apply(pixels, _ROTATION_ORIENTATIONS[applied.body[0] & 3]) if applied.body else pixels
        case b"imir":
            return orientation.apply(pixels, _MIRROR_ORIENTATIONS[applied.body[0] & 1]) if applied.body else pixels
        case b"clap":
            return _crop(pixels, *struct.unpack_from(">8i", applied.body))
    return pixels


def _crop(pixels: Pixels, *parts: int) -> Pixels:
    """Crop to the clean aperture.

    ``parts``: the numerators and denominators of the aperture's width and height, and of its horizontal and vertical
    offset from the image's centre. If an edge falls inside a pixel, we round as libheif does, because the standard
    defines no rounding.
    """
    height_px, width_px = pixels.shape[:2]
    if min(parts[1::2]) <= 0:
        raise unreadable_header()
    width, height, x, y = (Fraction(above, below) for above, below in zip(parts[::2], parts[1::2], strict=True))
    half = Fraction(1, 2)
    left = math.floor((width_px - width) / 2 + x)
    top = math.floor((height_px - height) / 2 + y + half)
    right, bottom = left + math.floor(width + half), top + math.floor(height + half)
    if not (0 <= left < right <= width_px and 0 <= top < bottom <= height_px):
        raise unreadable_header()
    return np.ascontiguousarray(pixels[top:bottom, left:right])

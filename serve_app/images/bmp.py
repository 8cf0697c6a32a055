"""Decode BMP files of Windows and OS/2.

Microsoft's documentation of Windows GDI describes the format under BITMAPINFOHEADER and "Bitmap Compression".

We decode BMP with NumPy because OpenCV 5.0.0 garbles padded run-length rows and ignores the colour masks of 32-bit
pixels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import Undecodable
from serve_app.images.limits import check_size, unreadable_header, unsupported
from serve_app.types import Pixels

_RGB, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS = 0, 1, 2, 3, 6
_UNSUPPORTED_COMPRESSIONS = {4: "a BMP with a JPEG in it", 5: "a BMP with a PNG in it"}
_OS2_HEADER_BYTES, _WINDOWS_HEADER_BYTES = 12, 40  # OS/2 1.x and Windows; headers of OS/2 2.x have 16 to 64 bytes
_BITS = {_RGB: (1, 4, 8, 16, 24, 32), _RLE8: (8,), _RLE4: (4,), _BITFIELDS: (16, 32), _ALPHA_BITFIELDS: (16, 32)}
_DEFAULT_MASKS = {
    16: (0x7C00, 0x03E0, 0x001F),
    32: (0xFF0000, 0x00FF00, 0x0000FF),
}  # red, green and blue, for files without their own masks
_MAX_PADDING_PX = 7  # some writers add up to this many pixels to the rows of run-length images
_MAX_RUNS = 1_000_000  # decoding this many runs takes about a second


@dataclass(frozen=True)
class _Header:
    size_bytes: int
    pixels_offset: int
    width_px: int
    height_px: int
    is_top_down: bool
    bits: int
    compression: int
    colours: int


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the image without its alpha channel. Raise TooLarge or Undecodable on failure."""
    header = _header(data)
    check_size(header.width_px, header.height_px, max_pixels)
    if header.compression in _UNSUPPORTED_COMPRESSIONS and header.bits == 0:
        raise unsupported(_UNSUPPORTED_COMPRESSIONS[header.compression])
    if header.bits not in _BITS.get(header.compression, ()):
        raise unsupported(f"a BMP with {header.bits} bits per pixel and compression {header.compression}")
    if header.compression in (_RLE8, _RLE4):
        return _palette(data, header)[_top_row_first(_decode_runs(data, header), header)]
    rows = _top_row_first(_rows(data, header), header)
    if header.bits <= 8:
        return _palette(data, header)[_indices(rows, header)]
    if header.bits == 24:
        used = np.ascontiguousarray(rows[:, : 3 * header.width_px])
        return used.reshape(header.height_px, header.width_px, 3)
    return _apply_masks(rows, data, header)


def _header(data: bytes) -> _Header:
    pixels_offset, size_bytes = struct.unpack_from("<II", data, 10)
    compression = colours = 0
    if size_bytes == _OS2_HEADER_BYTES:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif size_bytes >= 16:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
        if size_bytes >= _WINDOWS_HEADER_BYTES:
            compression, _, _, _, colours = struct.unpack_from("<IIiiI", data, 30)
    else:
        raise unreadable_header()
    if not pixels_offset:
        # Some writers leave out the offset of the pixels. The pixels then follow the header, its masks and the palette.
        masks_bytes = (
            {_BITFIELDS: 12, _ALPHA_BITFIELDS: 16}.get(compression, 0) if size_bytes == _WINDOWS_HEADER_BYTES else 0
        )
        entries = min(colours or 1 << bits, 1 << bits) if bits <= 8 else colours
        pixels_offset = 14 + size_bytes + masks_bytes + entries * (3 if size_bytes == _OS2_HEADER_BYTES else 4)
    return _Header(size_bytes, pixels_offset, width, abs(height), height < 0, bits, compression, colours)


def _rows(data: bytes, header: _Header) -> Pixels:
    """Return the rows as bytes, in file order. Each row is padded to a multiple of 4 bytes."""
    row_bytes = (header.width_px * header.bits + 31) // 32 * 4
    needed_bytes = row_bytes * header.height_px
    filling_bytes = row_bytes - (header.width_px * header.bits + 7) // 8
    if 0 < header.pixels_offset + needed_bytes - len(data) <= filling_bytes:
        data += bytes(filling_bytes)  # some writers do not pad the last row
    if header.pixels_offset < 14 + header.size_bytes or header.pixels_offset + needed_bytes > len(data):
        raise Undecodable("the image is truncated")
    return np.frombuffer(data, np.uint8, needed_bytes, header.pixels_offset).reshape(header.height_px, row_bytes)


def _top_row_first(rows: Pixels, header: _Header) -> Pixels:
    return rows if header.is_top_down else rows[::-1]


def _palette(data: bytes, header: _Header) -> Pixels:
    """Return 256 BGR colours. Colours that the file does not define are black."""
    entry_bytes = 3 if header.size_bytes == _OS2_HEADER_BYTES else 4
    start = 14 + header.size_bytes
    count = min(
        header.colours or 1 << header.bits, 1 << header.bits, max(0, header.pixels_offset - start) // entry_bytes
    )
    if not count or start + count * entry_bytes > len(data):
        raise Undecodable("the image's palette is truncated")
    palette = np.zeros((256, 3), np.uint8)
    entries = np.frombuffer(data, np.uint8, count * entry_bytes, start)
    palette[:count] = entries.reshape(count, entry_bytes)[:, :3]
    return palette


def _indices(rows: Pixels, header: _Header) -> Pixels:
    if header.bits == 8:
        return rows[:, : header.width_px]
    if header.bits == 4:
        return np.stack((rows >> 4, rows & 15), axis=2).reshape(header.height_px, -1)[:, : header.width_px]
    return np.unpackbits(rows, axis=1, count=header.width_px)


def _apply_masks(rows: Pixels, data: bytes, header: _Header) -> Pixels:
    """Extract the colours of 16-bit or 32-bit pixels."""
    masks: tuple[int, ...] = _DEFAULT_MASKS[header.bits]
    if header.compression != _RGB:
        masks = struct.unpack_from("<III", data, 54)  # the masks follow a 40-byte header, or are inside a longer header
    pixels = np.empty((header.height_px, header.width_px, 3), np.uint8)
    words = rows.view("<u2" if header.bits == 16 else "<u4")[:, : header.width_px]
    for channel, mask in zip((2, 1, 0), masks, strict=True):
        pixels[:, :, channel] = _channel(words, mask, header.bits)
    return pixels


def _channel(words: NDArray[np.uint32], mask: int, bits: int) -> Pixels:
    shift = (mask & -mask).bit_length() - 1
    max_value = mask >> max(shift, 0)
    if not mask or max_value & (max_value + 1) or mask >> bits:
        raise unsupported(f"a BMP with the colour mask {mask:#x}")
    values = words >> shift & max_value
    if max_value == 255:
        return values.astype(np.uint8)
    scaled = np.arange(min(max_value, 0xFFFF) + 1) * 255 / min(max_value, 0xFFFF)
    channel: Pixels = np.rint(scaled).astype(np.uint8)[values >> max(0, max_value.bit_length() - 16)]
    return channel


def _decode_runs(data: bytes, header: _Header) -> Pixels:
    """Return the palette indices. Skipped pixels get index 0, and pixels beyond the end of a row are dropped."""
    height, width = header.height_px, header.width_px
    indices = np.zeros((height, width), np.uint8)
    x, y, at = 0, 0, header.pixels_offset
    for _ in range(_MAX_RUNS):
        if at + 2 > len(data):
            raise Undecodable("the image is truncated")
        count, value = data[at], data[at + 1]
        at += 2
        if x > width + _MAX_PADDING_PX:
            raise Undecodable("the image is corrupt")
        if count:
            if y < height:
                visible_px = max(0, min(count, width - x))
                if header.bits == 8:
                    indices[y, x : x + visible_px] = value
                else:
                    indices[y, x : x + visible_px : 2] = value >> 4
                    indices[y, x + 1 : x + visible_px : 2] = value & 15
            x += count
        elif value == 0:
            x, y = 0, y + 1
        elif value == 1:
            return indices
        elif value == 2:
            if at + 2 > len(data):
                raise Undecodable("the image is truncated")
            x, y = x + data[at], y + data[at + 1]
            at += 2
        else:
            size = value if header.bits == 8 else (value + 1) // 2
            literal = np.frombuffer(data[at : at + size], np.uint8)
            if len(literal) < size:
                raise Undecodable("the image is truncated")
            if header.bits == 4:
                literal = np.stack((literal >> 4, literal & 15), axis=1).reshape(-1)[:value]
            if y < height:
                visible_px = max(0, min(value, width - x))
                indices[y, x : x + visible_px] = literal[:visible_px]
            x += value
            at += size + size % 2
        if y >= height:
            return indices
    raise unsupported(f"a BMP with more than {_MAX_RUNS:,} runs")

"""Check that the strips and tiles of a TIFF (revision 6.0) are complete.

libtiff leaves strips and tiles black when it cannot read them, and OpenCV does not report that.
"""

from __future__ import annotations

import struct
import zlib
from itertools import accumulate, groupby, islice
from operator import itemgetter

import numpy as np

from serve_app.errors import Undecodable
from serve_app.images import tiff_directory as tags
from serve_app.images.ffmpeg import decode_with_ffmpeg
from serve_app.images.limits import MAX_PARTS, unreadable_header, unsupported
from serve_app.images.tiff_directory import Directory, File

_NONE, _FAX, _LZW, _DEFLATE, _PACKBITS = 1, 2, 5, (8, 32946), 32773  # _FAX is Modified Huffman coding
# We do not check images in other fax encodings, because they often have rows that were damaged in transmission. We do
# not check JPEG, because libtiff does not leave a damaged JPEG strip black.
_CHECKED = (_NONE, _FAX, _LZW, *_DEFLATE, _PACKBITS)
_YCBCR = 6
_LOWEST_BIT_FIRST = 2  # value of FillOrder
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_STEP_BYTES = 1 << 20
_MAX_BATCH_PARTS, _MAX_BATCH_BYTES = 1024, 1 << 24  # limits for the strips or tiles in one FFmpeg call


def check_parts(file: File, directory: Directory, bits: int, width: int, height: int) -> None:
    """Raise Undecodable when strips or tiles are missing or incomplete."""
    is_tiled = tags.TILE_OFFSETS in directory
    offsets = directory.array(tags.TILE_OFFSETS if is_tiled else tags.STRIP_OFFSETS)
    sizes = directory.array(tags.TILE_BYTES if is_tiled else tags.STRIP_BYTES)
    compression = directory.value(tags.COMPRESSION, 1)
    if not len(sizes) and compression == _NONE:
        sizes = np.ones_like(offsets)  # old writers left out the sizes, and libtiff computes them
    elif len(offsets) != len(sizes):
        raise unsupported("a TIFF without the offsets of its pixels")
    # The last strip may be shorter than the others, but some writers record the full size for it, too. The recorded end
    # of that strip then lies beyond the end of the file. We allow this unless the strips are compressed.
    is_cut = compression != _NONE and bool((offsets + sizes > len(file.data)).any())
    if not len(offsets) or is_cut or bool((sizes == 0).any()):
        raise Undecodable("the image is truncated")
    if compression not in _CHECKED:
        return
    planes, samples = 1, directory.value(tags.SAMPLES, 1)
    if directory.value(tags.PLANAR, 1) == 2:
        planes, samples = samples, 1
    columns = directory.value(tags.TILE_WIDTH, 0) if is_tiled else width
    rows = directory.value(tags.TILE_HEIGHT, 0) if is_tiled else min(directory.value(tags.STRIP_ROWS, height), height)
    if not rows or not columns:
        raise unreadable_header()
    if directory.value(tags.PHOTOMETRIC, 0) == _YCBCR and planes == 1:
        subsampling = directory.values(tags.SUBSAMPLING) or (2, 2)
        if len(subsampling) != 2 or not set(subsampling) <= {1, 2, 4}:
            raise unreadable_header()
        subsampling_x, subsampling_y = subsampling
    else:
        subsampling_x = subsampling_y = 0

    def part_shape(part_rows: int) -> tuple[int, int]:
        """Return how many rows a strip or tile has, and how many bytes each row has.

        With subsampled colours, the pixels are stored in blocks, and "row" means a row of blocks.
        """
        if subsampling_x:
            return -(-part_rows // subsampling_y), -(-columns // subsampling_x) * (subsampling_x * subsampling_y + 2)
        return part_rows, (columns * samples * bits + 7) // 8

    in_plane = -(-width // columns) * -(-height // rows)
    if len(offsets) < in_plane * planes:
        raise Undecodable("the image is truncated")
    shapes = [part_shape(rows)] * (in_plane * planes)
    if not is_tiled:
        shapes[in_plane - 1 :: in_plane] = [part_shape(height - (in_plane - 1) * rows)] * planes
    if compression == _NONE:
        expected = np.array([row_bytes * part_rows for part_rows, row_bytes in shapes])
        ends = offsets[: len(expected)] + expected.astype(np.uint64)
        if bool((ends > len(file.data)).any()) or (
            tags.STRIP_BYTES in directory and bool((sizes[: len(expected)] < expected).any())
        ):
            raise Undecodable("the image is truncated")
        return
    if len(shapes) > MAX_PARTS:
        raise Undecodable("the image has too many strips")
    locations = list(zip(offsets.tolist(), sizes.tolist(), strict=True))[: len(shapes)]
    if compression not in _DEFLATE and sum(size for _, size in locations) > len(file.data):
        raise Undecodable("the image's parts have more bytes than its file")
    parts = (file.data[offset : offset + size] for offset, size in locations)
    if directory.value(tags.FILL_ORDER, 1) == _LOWEST_BIT_FIRST:
        parts = (data.translate(_REVERSED) for data in parts)
    if compression in _DEFLATE:
        for data, (part_rows, row_bytes) in zip(parts, shapes, strict=True):
            _check_inflated(data, part_rows * row_bytes)
    elif compression == _PACKBITS:
        for data, (part_rows, row_bytes) in zip(parts, shapes, strict=True):
            _check_runs(data, part_rows * row_bytes)
    else:
        for (part_rows, row_bytes), group in groupby(zip(parts, shapes, strict=True), itemgetter(1)):
            max_parts = max(1, min(_MAX_BATCH_PARTS, _MAX_BATCH_BYTES // (part_rows * row_bytes)))
            same = map(itemgetter(0), group)
            while batch := tuple(islice(same, max_parts)):
                _check_decoded(batch, compression, part_rows, row_bytes, columns)


def _check_inflated(data: bytes, expected: int) -> None:
    """Raise Undecodable when the data inflate to fewer bytes than expected, or their checksum is wrong."""
    inflater, inflated_bytes = zlib.decompressobj(), 0
    try:
        while not inflater.eof and inflated_bytes <= expected:
            part = inflater.decompress(data, _STEP_BYTES)
            inflated_bytes += len(part)
            data = inflater.unconsumed_tail
            if not part and not data:
                break
    except zlib.error as exc:
        raise Undecodable("the image is corrupt") from exc
    if inflated_bytes < expected:
        raise Undecodable("the image is truncated or corrupt")


def _check_runs(data: bytes, expected: int) -> None:
    """Raise Undecodable when PackBits data (section 9) unpack to fewer bytes than expected."""
    at = unpacked_bytes = 0
    while unpacked_bytes < expected and at < len(data):
        head = data[at]
        if head < 128:
            at += head + 2
            unpacked_bytes += head + 1
        elif head > 128:
            at += 2
            unpacked_bytes += 257 - head
        else:
            at += 1
    if unpacked_bytes < expected or at > len(data):
        raise Undecodable("the image is truncated or corrupt")


def _check_decoded(parts: tuple[bytes, ...], compression: int, rows: int, row_bytes: int, columns: int) -> None:
    """Raise Undecodable when FFmpeg finds LZW or fax data incomplete. libtiff does not report such data.

    FFmpeg gets the parts as the strips of a new grey TIFF. Each pixel of this TIFF is one byte of the decompressed LZW
    data, or one bit of the decompressed fax data.
    """
    if compression == _LZW and any(part[0] == 0 and part[1:2] and part[1] & 1 for part in parts):
        return  # programs before TIFF 5.0 stored the lowest bits of LZW data first, which FFmpeg cannot read
    width, bits = (row_bytes, 8) if compression == _LZW else (columns, 1)
    height = rows * len(parts)
    if (8 * width + 1024) * (height + 128) >= 1 << 31:  # FFmpeg refuses such large images
        raise unsupported("a TIFF with a strip of more than 250 MB")
    body = b"".join(parts)
    starts = (8, *(8 + end for end in accumulate(map(len, parts))))[:-1]
    count, values_at = len(parts), 8 + len(body) + len(body) % 2
    directory_offset = values_at + 8 * count
    numbers = {
        tags.WIDTH: (1, width), tags.HEIGHT: (1, height), tags.BITS: (1, bits), tags.COMPRESSION: (1, compression),
        tags.PHOTOMETRIC: (1, 1), tags.SAMPLES: (1, 1), tags.STRIP_ROWS: (1, rows),
        tags.STRIP_OFFSETS: (count, values_at if count > 1 else 8),
        tags.STRIP_BYTES: (count, values_at + 4 * count if count > 1 else len(body)),
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, *number) for tag, number in sorted(numbers.items()))
    head = struct.pack("<2sHI", b"II", 42, directory_offset)
    values = struct.pack(f"<{2 * count}I", *starts, *map(len, parts))
    directory = struct.pack("<H", len(numbers)) + entries + bytes(4)
    decode_with_ffmpeg("tiff", None, b"".join((head, body, bytes(len(body) % 2), values, directory)), width, height)

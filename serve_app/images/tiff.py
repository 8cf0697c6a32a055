"""TIFF (revision 6.0) and BigTIFF: a directory with what makes the first whole picture, and no further ones.

libtiff goes through every directory, and decodes tiles to their full size, however little of one is picture. It
multiplies colours by an alpha that stands beside them, and applies some orientations: these tags are taken away. It
shreds tiles of several bytes a pixel that stand over the picture's edge: the picture is made as large as its tiles.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np

from serve_app.errors import Undecodable
from serve_app.images import orientation
from serve_app.images import tiff_directory as tags
from serve_app.images.limits import check_size, unread, variant
from serve_app.images.opencv import decoded
from serve_app.images.tiff_directory import Directory, File, directories
from serve_app.images.tiff_parts import check_parts
from serve_app.types import Pixels

_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}  # none, fax, LZW, JPEG, deflate, PackBits
_COMPRESSION_NAMES = {
    6: "JPEG of the old kind", 34887: "LERC", 34925: "LZMA", 34712: "JPEG 2000", 34934: "JPEG XR", 50000: "zstd",
    50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL", 34892: "lossy JPEG", 34676: "SGI Log", 34677: "SGI Log",
}  # fmt: skip
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_PHOTOMETRIC_NAMES = {4: "a mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32844: "LogL", 32845: "LogLuv"}
_RAW = {32803, 34892, 51177}  # what the sensor's filter lets through
_LAYOUTS = {  # photometric: bits of a sample, samples of a pixel without those beside its colours
    _WHITE_IS_ZERO: ((1, 4, 8, 16), 1), _BLACK_IS_ZERO: ((1, 4, 8, 16), 1), _RGB: ((8, 16), 3),
    _PALETTE: ((1, 4, 8), 1), _CMYK: ((8,), 4), _YCBCR: ((8,), 3),
}  # fmt: skip
_WITH_ALPHA = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
_ASSOCIATED_ALPHA = 1
_CANON = b"CR"  # behind the header of a CR2
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_UNSIGNED, _UNDEFINED = 1, 4  # of SampleFormat
_LEAST_TILE_BYTES = 1024
_TILING = 2  # a picture's tiles may cover so many times what a picture may have


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the file's first picture of full resolution. Raises TooLarge, Undecodable."""
    if data[8:10] == _CANON:
        raise variant("a camera's raw file")
    file = File(data, "<" if data.startswith(b"II") else ">", data[2:4] in (b"+\0", b"\0+"))
    directory = _first_whole(file)
    width, height = directory.value(tags.WIDTH, 0), directory.value(tags.HEIGHT, 0)
    check_size(width, height, max_pixels)
    tiled_width, tiled_height = (
        -(-side // tile) * tile if tile else side
        for side, tile in ((width, directory.value(tags.TILE_WIDTH, 0)), (height, directory.value(tags.TILE_HEIGHT, 0)))
    )
    if tiled_width * tiled_height > _TILING * max_pixels:
        raise Undecodable("the picture's tiles are far larger than it is")
    bits, has_premultiplied_alpha = _checked(directory)
    _check_tiles(directory, bits)
    check_parts(file, directory, bits, width, height)
    entries = directory.kept() | {
        tags.WIDTH: _long(file, tags.WIDTH, tiled_width),
        tags.HEIGHT: _long(file, tags.HEIGHT, tiled_height),
    }
    tail = b""
    if bits == 4 and directory.value(tags.PHOTOMETRIC, 0) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        entries, tail = _greys_as_palette(file, entries, directory.value(tags.PHOTOMETRIC, 0))
    named = (*directory.values(tags.ORIENTATION), 0)[0]  # some writers count two
    turn = named or orientation.chosen(None, directory.bytes_of(tags.XMP, 1 << 18))
    plain = _with_directory(file, entries, tail)
    if has_premultiplied_alpha:
        pixels = _divided_by_alpha(decoded(plain, flags=cv2.IMREAD_UNCHANGED))
    else:
        pixels = decoded(plain)
    return orientation.turned(np.ascontiguousarray(pixels[:height, :width]), turn)


def _first_whole(file: File) -> Directory:
    """Return the first directory that is neither a thumbnail nor a mask, or the first one where all are.

    A raw file has its thumbnail first, and the rest below it (TIFF/EP, ISO 12234-2).
    """
    first = None
    for directory in directories(file):
        is_small = directory.value(tags.SUBFILE, 0) & (_REDUCED | _MASK)
        is_raw = tags.DNG in directory or directory.value(tags.PHOTOMETRIC, 0) in _RAW
        if is_raw or (is_small and tags.SUB_DIRECTORIES in directory):
            raise variant("a camera's raw file")
        if not is_small:
            return directory
        first = first or directory
    if first is None:
        raise unread()
    return first


def _checked(directory: Directory) -> tuple[int, bool]:
    """Return the bits of a sample, and whether the colours are multiplied by alpha."""
    compression = directory.value(tags.COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise variant(f"a TIFF of compression {_COMPRESSION_NAMES.get(compression, compression)}")
    if tags.PHOTOMETRIC not in directory:
        raise variant("a TIFF that does not say what its numbers mean")
    photometric = directory.value(tags.PHOTOMETRIC, 0)
    if photometric not in _LAYOUTS:
        raise variant(f"a TIFF of {_PHOTOMETRIC_NAMES.get(photometric, f'colour space {photometric}')}")
    possible_bits, colours = _LAYOUTS[photometric]
    samples = directory.value(tags.SAMPLES, 1)
    all_bits, formats = directory.values(tags.BITS) or (1,), directory.values(tags.SAMPLE_FORMAT) or (1,)
    if set(formats) - {_UNSIGNED, _UNDEFINED}:
        raise variant("a TIFF of signed numbers or floating point")
    bits = all_bits[0]
    if set(all_bits) != {bits} or bits not in possible_bits:
        raise variant(f"a TIFF of {'/'.join(map(str, all_bits))} bits")
    extra = directory.values(tags.EXTRA_SAMPLES)
    if not colours <= samples <= 4 or (samples > colours and (bits < 8 or photometric not in _WITH_ALPHA)):
        raise variant(f"a TIFF of {samples} samples a pixel")
    is_premultiplied = samples > colours and extra[:1] == (_ASSOCIATED_ALPHA,)
    if is_premultiplied and (bits != 8 or photometric != _RGB):
        raise variant("a TIFF whose colours are multiplied by alpha, and of other colours than RGB of 8 bits")
    return bits, is_premultiplied


def _check_tiles(directory: Directory, bits: int) -> None:
    """OpenCV 5.0.0 refuses small tiles that are not compressed: this says why."""
    tile_bits = directory.value(tags.TILE_WIDTH, 0) * directory.value(tags.TILE_HEIGHT, 0) * bits
    if directory.value(tags.PLANAR, 1) == 1:
        tile_bits *= directory.value(tags.SAMPLES, 1)
    if directory.value(tags.COMPRESSION, 1) == 1 and 0 < tile_bits < 8 * _LEAST_TILE_BYTES:
        raise variant(f"a TIFF of tiles that are not compressed and have less than {_LEAST_TILE_BYTES} bytes")


def _long(file: File, tag: int, value: int) -> bytes:
    """Return an entry of one number."""
    return struct.pack(f"{file.order}HH{file.offset}I", tag, 4, 1, value).ljust(file.entry_bytes, b"\0")


def _greys_as_palette(file: File, entries: dict[int, bytes], photometric: int) -> tuple[dict[int, bytes], bytes]:
    """Say the same in a palette: OpenCV 5.0.0 reads 4 bits as nothing else."""
    greys = [0x1111 * grey for grey in range(16)]
    if photometric == _WHITE_IS_ZERO:
        greys.reverse()
    place = len(file.data) + len(file.data) % 2
    layout = f"{file.order}HH{file.offset}"
    head = struct.pack(layout, tags.COLOUR_MAP, 3, 48) + struct.pack(file.order + file.offset, place)
    kind = struct.pack(layout, tags.PHOTOMETRIC, 3, 1) + struct.pack(file.order + "H", _PALETTE).ljust(
        file.value_bytes, b"\0"
    )
    return entries | {tags.COLOUR_MAP: head, tags.PHOTOMETRIC: kind}, struct.pack(f"{file.order}48H", *greys * 3)


def _with_directory(file: File, entries: dict[int, bytes], tail: bytes) -> bytes:
    """Return the file with this directory alone, behind its data and ``tail``."""
    data = file.data
    place = len(data) + len(data) % 2 + len(tail)
    directory = (
        struct.pack(file.order + file.count, len(entries))
        + b"".join(entries[tag] for tag in sorted(entries))
        + bytes(file.value_bytes)
    )
    at = 8 if file.is_big else 4
    head = data[:at] + struct.pack(file.order + file.offset, place)
    return b"".join((head, data[len(head) :], bytes(len(data) % 2), tail, directory))


def _divided_by_alpha(pixels: Pixels) -> Pixels:
    """Return BGR as it was before it was multiplied by alpha; black where nothing is left of it."""
    colours, alpha = pixels[:, :, :3].astype(np.uint16), pixels[:, :, 3:].astype(np.uint16)
    divided: Pixels = np.minimum((colours * 255 + alpha // 2) // np.maximum(alpha, 1), 255).astype(np.uint8)
    return divided

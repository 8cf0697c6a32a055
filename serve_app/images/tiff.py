"""Decode the first full-resolution image of a TIFF (revision 6.0) or BigTIFF.

We rewrite the file before OpenCV decodes it, because libtiff and OpenCV 5.0.0 have these faults:

- They read every directory of the file. We keep one directory.
- They multiply colours by unassociated (not premultiplied) alpha. We remove the alpha tag.
- They apply only some orientations. We remove the orientation tag, and turn the decoded image ourselves.
- At the image's edges, they garble tiles that have several bytes per pixel. We decode whole tiles, and crop the result.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np

from serve_app.errors import Undecodable
from serve_app.images import orientation
from serve_app.images import tiff_directory as tags
from serve_app.images.limits import check_size, unreadable_header, unsupported
from serve_app.images.opencv import decode_with_opencv
from serve_app.images.tiff_directory import Directory, File, directories
from serve_app.images.tiff_parts import check_parts
from serve_app.types import Pixels

_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}  # none, fax, LZW, JPEG, deflate, PackBits
_COMPRESSION_NAMES = {
    6: "old-style JPEG", 34887: "LERC", 34925: "LZMA", 34712: "JPEG 2000", 34934: "JPEG XR", 50000: "zstd",
    50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL", 34892: "lossy JPEG", 34676: "SGI Log", 34677: "SGI Log",
}  # fmt: skip
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_PHOTOMETRIC_NAMES = {4: "mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32844: "LogL", 32845: "LogLuv"}
_RAW = {32803, 34892, 51177}  # colour filter array, linear raw, depth map
# A TIFF's photometric interpretation says how its samples encode colours. This table gives two values for each
# interpretation: the allowed numbers of bits per sample, and the number of colour samples per pixel.
_LAYOUTS = {
    _WHITE_IS_ZERO: ((1, 4, 8, 16), 1), _BLACK_IS_ZERO: ((1, 4, 8, 16), 1), _RGB: ((8, 16), 3),
    _PALETTE: ((1, 4, 8), 1), _CMYK: ((8,), 4), _YCBCR: ((8,), 3),
}  # fmt: skip
_WITH_ALPHA = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
_ASSOCIATED_ALPHA = 1
_CANON = b"CR"  # follows the header of a CR2 file
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_UNSIGNED, _UNDEFINED = 1, 4  # values of SampleFormat
_MIN_UNCOMPRESSED_TILE_BYTES = 1024
# The total area of an image's tiles may be at most this multiple of ``max_pixels``.
_MAX_TILE_AREA_RATIO = 2


def read(data: bytes, max_pixels: int) -> Pixels:
    """Return the file's first full-resolution image. Raise TooLarge or Undecodable on failure."""
    if data[8:10] == _CANON:
        raise unsupported("a camera's raw file")
    file = File(data, "<" if data.startswith(b"II") else ">", data[2:4] in (b"+\0", b"\0+"))
    directory = _first_full_resolution(file)
    width, height = directory.value(tags.WIDTH, 0), directory.value(tags.HEIGHT, 0)
    check_size(width, height, max_pixels)
    tiled_width, tiled_height = (
        -(-side // tile) * tile if tile else side
        for side, tile in ((width, directory.value(tags.TILE_WIDTH, 0)), (height, directory.value(tags.TILE_HEIGHT, 0)))
    )
    if tiled_width * tiled_height > _MAX_TILE_AREA_RATIO * max_pixels:
        raise Undecodable("the image's tiles are far larger than the image")
    bits, has_premultiplied_alpha = _check_layout(directory)
    _check_tiles(directory, bits)
    check_parts(file, directory, bits, width, height)
    entries = directory.kept() | {
        tags.WIDTH: _long_entry(file, tags.WIDTH, tiled_width),
        tags.HEIGHT: _long_entry(file, tags.HEIGHT, tiled_height),
    }
    tail = b""
    if bits == 4 and directory.value(tags.PHOTOMETRIC, 0) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        entries, tail = _greys_as_palette(file, entries, directory.value(tags.PHOTOMETRIC, 0))
    named = (*directory.values(tags.ORIENTATION), 0)[0]  # some writers store two numbers; we use the first one
    orientation_tag = named or orientation.select(None, directory.bytes_of(tags.XMP, 1 << 18))
    one_picture = _with_single_directory(file, entries, tail)
    if has_premultiplied_alpha:
        pixels = _unpremultiply(decode_with_opencv(one_picture, flags=cv2.IMREAD_UNCHANGED))
    else:
        pixels = decode_with_opencv(one_picture)
    return orientation.apply(np.ascontiguousarray(pixels[:height, :width]), orientation_tag)


def _first_full_resolution(file: File) -> Directory:
    """Return the first directory that is neither a thumbnail nor a mask, or else the first directory.

    A camera's raw file begins with a thumbnail and has its other images in subdirectories (TIFF/EP, ISO 12234-2).
    """
    first = None
    for directory in directories(file):
        is_small = directory.value(tags.SUBFILE, 0) & (_REDUCED | _MASK)
        is_raw = tags.DNG in directory or directory.value(tags.PHOTOMETRIC, 0) in _RAW
        if is_raw or (is_small and tags.SUB_DIRECTORIES in directory):
            raise unsupported("a camera's raw file")
        if not is_small:
            return directory
        first = first or directory
    if first is None:
        raise unreadable_header()
    return first


def _check_layout(directory: Directory) -> tuple[int, bool]:
    """Return the bits per sample, and whether alpha is premultiplied. Raise Undecodable for unsupported layouts."""
    compression = directory.value(tags.COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise unsupported(f"a TIFF with the compression {_COMPRESSION_NAMES.get(compression, compression)}")
    if tags.PHOTOMETRIC not in directory:
        raise unsupported("a TIFF without a photometric interpretation")
    photometric = directory.value(tags.PHOTOMETRIC, 0)
    if photometric not in _LAYOUTS:
        raise unsupported(
            f"a TIFF with the photometric interpretation {_PHOTOMETRIC_NAMES.get(photometric, photometric)}"
        )
    possible_bits, colours = _LAYOUTS[photometric]
    samples = directory.value(tags.SAMPLES, 1)
    all_bits, formats = directory.values(tags.BITS) or (1,), directory.values(tags.SAMPLE_FORMAT) or (1,)
    if set(formats) - {_UNSIGNED, _UNDEFINED}:
        raise unsupported("a TIFF with signed or floating point samples")
    bits = all_bits[0]
    if set(all_bits) != {bits} or bits not in possible_bits:
        raise unsupported(f"a TIFF with {'/'.join(map(str, all_bits))} bits per sample")
    extra = directory.values(tags.EXTRA_SAMPLES)
    if not colours <= samples <= 4 or (samples > colours and (bits < 8 or photometric not in _WITH_ALPHA)):
        raise unsupported(f"a TIFF with {samples} samples per pixel")
    is_premultiplied = samples > colours and extra[:1] == (_ASSOCIATED_ALPHA,)
    if is_premultiplied and (bits != 8 or photometric != _RGB):
        raise unsupported("a TIFF with premultiplied alpha whose colours are not 8-bit RGB")
    return bits, is_premultiplied


def _check_tiles(directory: Directory, bits: int) -> None:
    """Raise Undecodable for small uncompressed tiles, which OpenCV 5.0.0 refuses although they are valid."""
    tile_bits = directory.value(tags.TILE_WIDTH, 0) * directory.value(tags.TILE_HEIGHT, 0) * bits
    if directory.value(tags.PLANAR, 1) == 1:
        tile_bits *= directory.value(tags.SAMPLES, 1)
    if directory.value(tags.COMPRESSION, 1) == 1 and 0 < tile_bits < 8 * _MIN_UNCOMPRESSED_TILE_BYTES:
        raise unsupported(f"a TIFF with uncompressed tiles of less than {_MIN_UNCOMPRESSED_TILE_BYTES} bytes")


def _long_entry(file: File, tag: int, value: int) -> bytes:
    """Return a directory entry for one 32-bit number."""
    return struct.pack(f"{file.order}HH{file.offset_format}I", tag, 4, 1, value).ljust(file.entry_bytes, b"\0")


def _greys_as_palette(file: File, entries: dict[int, bytes], photometric: int) -> tuple[dict[int, bytes], bytes]:
    """Add a palette of 16 greys to the directory entries. Return the new entries, and the palette's data.

    OpenCV 5.0.0 needs a palette for 4-bit samples.
    """
    greys = [0x1111 * grey for grey in range(16)]
    if photometric == _WHITE_IS_ZERO:
        greys.reverse()
    offset = len(file.data) + len(file.data) % 2
    layout = f"{file.order}HH{file.offset_format}"
    head = struct.pack(layout, tags.COLOUR_MAP, 3, 48) + struct.pack(file.order + file.offset_format, offset)
    kind = struct.pack(layout, tags.PHOTOMETRIC, 3, 1) + struct.pack(file.order + "H", _PALETTE).ljust(
        file.value_bytes, b"\0"
    )
    return entries | {tags.COLOUR_MAP: head, tags.PHOTOMETRIC: kind}, struct.pack(f"{file.order}48H", *greys * 3)


def _with_single_directory(file: File, entries: dict[int, bytes], tail: bytes) -> bytes:
    """Return the file's data and ``tail``, followed by a single directory with these entries."""
    data = file.data
    offset = len(data) + len(data) % 2 + len(tail)
    directory = (
        struct.pack(file.order + file.count_format, len(entries))
        + b"".join(entries[tag] for tag in sorted(entries))
        + bytes(file.value_bytes)
    )
    at = 8 if file.is_big else 4
    head = data[:at] + struct.pack(file.order + file.offset_format, offset)
    return b"".join((head, data[len(head) :], bytes(len(data) % 2), tail, directory))


def _unpremultiply(pixels: Pixels) -> Pixels:
    """Divide premultiplied BGR values by alpha. Fully transparent pixels stay black."""
    colours, alpha = pixels[:, :, :3].astype(np.uint16), pixels[:, :, 3:].astype(np.uint16)
    divided: Pixels = np.minimum((colours * 255 + alpha // 2) // np.maximum(alpha, 1), 255).astype(np.uint8)
    return divided

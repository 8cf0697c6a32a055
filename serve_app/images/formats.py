"""Recognise a file's format by its first bytes. Find its reader, or if there is none, its name."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.images import bmp, gif, heif, jpeg, png, tiff, webp
from serve_app.types import Pixels

READ = "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF"

Reader = Callable[[bytes, int], Pixels]  # bytes, max_pixels -> upright pixels

_READERS: tuple[tuple[bytes, Reader], ...] = (
    (b"\xff\xd8\xff", jpeg.read),
    (b"\x89PNG\r\n\x1a\n", png.read),
    (b"II*\0", tiff.read),
    (b"MM\0*", tiff.read),
    (b"II+\0\x08\0\0\0", tiff.read),
    (b"MM\0+\0\x08\0\0", tiff.read),
    (b"BM", bmp.read),
    (b"GIF87a", gif.read),
    (b"GIF89a", gif.read),
)
_HEIF_BRANDS = {
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1", b"miaf",
    b"avif", b"avis", b"avio",
}  # fmt: skip
_RAW = "a camera's raw file"
_VIDEO = "a video (MP4 or QuickTime): add it as a stream, or"
_NAMES: tuple[tuple[int, bytes, str], ...] = (  # offset, bytes, name
    (4, b"ftypcrx ", _RAW),
    *((4, kind, _VIDEO) for kind in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"gimp xcf", "a GIMP document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (0, b"AT&TFORM", "a DjVu document"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    *((0, b"\0\0%c\0\0\0\0\0" % kind, "TGA") for kind in (2, 3, 10, 11)),  # without a palette
    *((0, b"\0\1%c\0\0" % kind, "TGA") for kind in (1, 9)),
    (0, b"\0\0\2\0", "a cursor (CUR)"),
    (0, b"icns", "an icon (ICNS)"),
    (0, b"qoif", "QOI"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"\x01\xda", "SGI"),
    (0, b"/* XPM */", "XPM"),
    (0, b"\xabKTX ", "KTX"),
    (0, b"\x8aMNG", "MNG"),
    (0, b"\x8bJNG", "JNG"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"MMOR", _RAW),
    (0, b"IIU\0", _RAW),
    (0, b"FOVb", _RAW),
    (0, b"\0MRM", _RAW),
    (6, b"HEAPCCDR", _RAW),
    (8, b"AVI ", "a video (AVI): add it as a stream, or"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM): add it as a stream, or"),
    (0, b"\0\0\1\xba", "a video (MPEG): add it as a stream, or"),
    (0, b"PK\3\4", "a ZIP archive: unpack it, and"),
    (0, b"\x1f\x8b", "a gzip file: unpack it, and"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it, and"),
    (0, b"Rar!", "a RAR archive: unpack it, and"),
    (0, b"data:", "a data URL: decode its base64 text, and"),
    (0, b"/9j/", "base64 text: decode it, and"),
    (0, b"iVBORw0KGgo", "base64 text: decode it, and"),
    (0, b"UklGR", "base64 text: decode it, and"),
)  # fmt: skip
_TEXTS = ((b"<svg", "SVG"), (b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<?xml", "XML"))
_NETPBM = tuple(b"P%c" % digit for digit in b"1234567fF")


def reader(data: bytes) -> Reader | None:
    """Return the reader for the image's format, or None when the format is not supported."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return webp.read
    if data[4:8] == b"ftyp":
        return heif.read if _brands(data) & _HEIF_BRANDS else None
    return next((read for signature, read in _READERS if data.startswith(signature)), None)


def description(data: bytes) -> str:
    """Return the start of the error message for an unsupported format. The caller appends the supported formats."""
    name = next((name for at, signature, name in _NAMES if data.startswith(signature, at)), None) or _text_name(data)
    if name is None:
        return "these bytes are not an image:"
    return f"this is {name}" if name.endswith((", and", ", or")) else f"this is {name}:"


def _brands(data: bytes) -> set[bytes]:
    """Return the major brand and the compatible brands of an ISO media file."""
    size = min(int.from_bytes(data[:4], "big"), 1024)
    return {data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))}


def _text_name(data: bytes) -> str | None:
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<"):
        return next((name for text, name in _TEXTS if text in start), None)
    if data.endswith(b"TRUEVISION-XFILE.\0"):
        return "TGA"
    if start[:2].capitalize() in _NETPBM and start[2:3].isspace():
        return "Netpbm"
    if start.startswith((b"{", b"[")):
        return "JSON"
    return None

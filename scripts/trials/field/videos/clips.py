"""Clips with cover art, display matrices and wrong time stamps, as phones, cameras and exporters write them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext
from PIL import ExifTags, Image

WIDTH_PX, HEIGHT_PX = 128, 64
FRAMES, FPS = 50, 25
_COLOURS = {"white": (255, 255, 255), "red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}  # BGR
Matrix = tuple[int, int, int, int]  # a, b, c and d of a display matrix

# The eight EXIF orientations as display matrices, each with the colours that a viewer shows in the upper left, upper
# right, lower left and lower right quarters.
ORIENTATIONS: dict[str, tuple[Matrix, tuple[str, str, str, str]]] = {
    "as it is": ((1, 0, 0, 1), ("white", "red", "green", "blue")),
    "mirrored": ((-1, 0, 0, 1), ("red", "white", "blue", "green")),
    "rotated by 180 degrees": ((-1, 0, 0, -1), ("blue", "green", "red", "white")),
    "upside down": ((1, 0, 0, -1), ("green", "blue", "white", "red")),
    "transposed": ((0, 1, 1, 0), ("white", "green", "red", "blue")),
    "rotated to the right": ((0, 1, -1, 0), ("green", "white", "blue", "red")),
    "transposed over the other diagonal": ((0, -1, -1, 0), ("blue", "red", "green", "white")),
    "rotated to the left": ((0, -1, 1, 0), ("red", "blue", "white", "green")),
}


def picture(width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> np.ndarray:
    """Return a BGR image whose quarters are white, red, green and blue."""
    pixels = np.zeros((height_px, width_px, 3), np.uint8)
    for number, colour in enumerate(_COLOURS.values()):
        top, left = number // 2 * height_px // 2, number % 2 * width_px // 2
        pixels[top : top + height_px // 2, left : left + width_px // 2] = colour
    return pixels


def corners(pixels: np.ndarray) -> tuple[str, ...]:
    """Return the colours of an image's quarters."""
    height_px, width_px = pixels.shape[:2]
    found = []
    for y in (height_px // 4, 3 * height_px // 4):
        for x in (width_px // 4, 3 * width_px // 4):
            distances = {name: np.abs(pixels[y, x].astype(int) - colour).sum() for name, colour in _COLOURS.items()}
            found.append(min(distances, key=lambda name: distances[name]))
    return tuple(found)


def jpeg(width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX, shade: int | None = None) -> bytes:
    """Return the image of ``picture`` as a JPEG. If ``shade`` is given, all pixels have this shade of grey."""
    pixels = picture(width_px, height_px)
    if shade is not None:
        pixels[:] = shade
    return bytes(cv2.imencode(".jpg", pixels)[1])


def jpeg_turned(orientation: int) -> bytes:
    """Return the image of ``picture`` as a JPEG with this EXIF orientation, from 1 to 8."""
    exif, out = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    Image.open(io.BytesIO(jpeg())).save(out, "JPEG", exif=exif, quality=95)
    return out.getvalue()


def several(*shades: int) -> bytes:
    """Return an MPO (a file of several JPEGs) with grey images. The first image lists the other images."""
    out = io.BytesIO()
    first, *others = [Image.new("RGB", (WIDTH_PX, HEIGHT_PX), (shade, shade, shade)) for shade in shades]
    first.save(out, "MPO", save_all=True, append_images=others)
    return out.getvalue()


def save(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = FRAMES,
    fps: int = FPS,
    container_format: str | None = None,
    size: tuple[int, int] = (WIDTH_PX, HEIGHT_PX),
) -> Path:
    """Write a clip without B frames, and return its path."""
    with av.open(str(path), "w", format=container_format) as container:
        add_track(container, codec, frames, fps, size)
    return path


def fragments(size: tuple[int, int] = (WIDTH_PX, HEIGHT_PX)) -> list[bytes]:
    """Return the initialisation segment of a fragmented MP4, followed by the fragments."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        flags = "frag_keyframe+empty_moov+default_base_moof"
        with av.open(str(path), "w", options={"movflags": flags}) as container:
            add_track(container, "libx264", FRAMES, FPS, size)
        named = [(name, content) for name, content in boxes(path.read_bytes()) if name != b"mfra"]
    starts = [number for number, (name, _) in enumerate(named) if name == b"moof"]
    parts = [named[: starts[0]], *(named[start:end] for start, end in pairwise([*starts, len(named)]))]
    return [b"".join(content for _, content in part) for part in parts]


def with_orientation(path: Path, orientation: str) -> Path:
    """Add this orientation to a raw H.264 clip as an SEI message (metadata), and return the clip's path.

    ``rotate=90`` rotates counter-clockwise, and ``flip=horizontal`` swaps left and right.
    """
    with av.open(str(path), format="h264") as container:
        filtered = BitStreamFilterContext(
            f"h264_metadata=display_orientation=insert:{orientation}", container.streams.video[0]
        )
        packets = [out for packet in container.demux(video=0) for out in filtered.filter(packet)]
    path.write_bytes(b"".join(map(bytes, packets)))
    return path


def add_track(
    container: av.container.OutputContainer, codec: str, frames: int, fps: int, size: tuple[int, int]
) -> None:
    """Add a video track with this number of frames."""
    options = {"bf": "0", "g": "10"} | ({"x265-params": "log-level=none"} if codec == "libx265" else {})
    stream = container.add_stream(codec, rate=fps, options=options if "26" in codec else {})
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height = size
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    shown = av.VideoFrame.from_ndarray(picture(*size), "bgr24")
    packets = []
    for number in range(frames):
        shown.pts = number
        packets += stream.encode(shown)
    packets += stream.encode(None)
    container.mux(packets)


# Boxes of MP4 and MOV (ISO 14496-12)


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the name and all bytes of each box in a file, or in the content of another box."""
    found, at = [], 0
    while at + 8 <= len(data):
        size = struct.unpack_from(">I", data, at)[0] or len(data) - at
        found.append((data[at + 4 : at + 8], data[at : at + size]))
        at += size
    return found


def box(name: bytes, *contents: bytes) -> bytes:
    """Return a box with this name and contents."""
    content = b"".join(contents)
    return struct.pack(">I", 8 + len(content)) + name + content


def with_matrix(data: bytes, matrix: Matrix, track: int = 0) -> bytes:
    """Return an MP4 or MOV with this display matrix in one of its tracks."""
    at = -1
    for _ in range(track + 1):
        at = data.index(b"tkhd", at + 1)
    assert data[at + 4] == 0, "the version of the tkhd box is not 0"
    a, b, c, d = (number << 16 for number in matrix)
    numbers = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return data[: at + 44] + numbers + data[at + 80 :]


def with_cover(data: bytes, cover: bytes, *, first: bool, kind: int = 13) -> bytes:
    """Return an MP4 with cover art before or after its tracks. ``kind`` is 13 for JPEG and 14 for PNG, as in iTunes.

    The index must come after the frames, as in FFmpeg's files, so that a larger index does not move the frames.
    """
    named = boxes(data)
    assert [name for name, _ in named][-1] == b"moov"
    art = box(b"covr", box(b"data", struct.pack(">II", kind, 0), cover))
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    meta = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", art)))
    inner = [content for name, content in boxes(named[-1][1][8:]) if name != b"udta"]
    inner.insert(1 if first else len(inner), meta)
    return b"".join(content for _, content in named[:-1]) + box(b"moov", *inner)


def save_tracks(path: Path, *sizes: tuple[int, int, int], default: int = 0) -> Path:
    """Write a file with several video tracks, and return its path.

    ``sizes`` holds the width, height and number of frames of each track. ``default`` is the default track's index.
    """
    with av.open(str(path), "w") as container:
        streams = []
        for number, (width_px, height_px, frames) in enumerate(sizes):
            codec = "mjpeg" if frames == 1 else "libx264"
            stream = container.add_stream(codec, rate=FPS, options={"bf": "0"} if frames > 1 else {})
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = width_px, height_px
            stream.pix_fmt = "yuvj420p" if frames == 1 else "yuv420p"
            stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
            streams.append((stream, frames))
        for stream, frames in streams:
            shown = av.VideoFrame.from_ndarray(picture(stream.width, stream.height), "bgr24")
            for number in range(frames):
                shown.pts = number
                container.mux(stream.encode(shown))
            container.mux(stream.encode(None))
    return path


# EBML, the format of Matroska (RFC 8794)


def with_roll(data: bytes, roll: float) -> bytes:
    """Return a Matroska file whose ``ProjectionPoseRoll`` rotates the video counter-clockwise by ``roll`` degrees."""
    projection = _element(b"\x76\x70", _element(b"\x76\x71", b"\0") + _element(b"\x76\x75", struct.pack(">d", roll)))
    return _appended(data, [b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"], projection)


def _element(name: bytes, content: bytes) -> bytes:
    return name + struct.pack(">Q", len(content) | 1 << 56) + content


def _appended(data: bytes, path: Sequence[bytes], new: bytes) -> bytes:
    """Return the elements of ``data`` with ``new`` appended to the element at ``path``."""
    if not path:
        return data + new
    at, out = 0, b""
    while at < len(data):
        name_bytes = 9 - data[at].bit_length()
        name = data[at : at + name_bytes]
        first = data[at + name_bytes]
        size_bytes = 9 - first.bit_length()
        size = int.from_bytes(data[at + name_bytes : at + name_bytes + size_bytes], "big") & (1 << 7 * size_bytes) - 1
        start = at + name_bytes + size_bytes
        size = min(size, len(data) - start)
        if name == path[0]:
            return out + _element(name, _appended(data[start : start + size], path[1:], new)) + data[start + size :]
        out += data[at : start + size]
        at = start + size
    raise ValueError(path[0])


# FLV and AVI


def with_stamps(data: bytes, stamps_ms: Sequence[int]) -> bytes:
    """Return an FLV whose frames have these time stamps, stored as signed numbers of 32 bits."""
    out, at, number = bytearray(data), 13, 0
    while at + 11 <= len(out):
        size = int.from_bytes(out[at + 1 : at + 4], "big")
        is_frame = out[at] == 9 and out[at + 12] == 1  # other H.264 tags hold the header or mark the end
        if is_frame and number < len(stamps_ms):
            stamp = stamps_ms[number] & 0xFFFFFFFF
            out[at + 4 : at + 8] = bytes([stamp >> 16 & 255, stamp >> 8 & 255, stamp & 255, stamp >> 24])
            number += 1
        at += 11 + size + 4
    return bytes(out)


def without_index(data: bytes) -> bytes:
    """Return an AVI without its index, as if the writer had stopped too early."""
    return data[: data.rindex(b"idx1")]


def with_absurd_rate(data: bytes) -> bytes:
    """Return an AVI that claims a million frames per second."""
    at = data.index(b"strh") + 8 + 20  # the offset of the track's scale and rate
    return data[:at] + struct.pack("<II", 1, 1_000_000) + data[at + 8 :]


def with_broken_index(data: bytes) -> bytes:
    """Return an AVI whose index has invalid offsets."""
    at = data.rindex(b"idx1")
    return data[: at + 8] + b"\xa5" * (len(data) - at - 8)

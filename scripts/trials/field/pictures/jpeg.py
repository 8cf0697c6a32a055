"""A generator of JPEGs as phones, cameras and editors write them, with thumbnails and with data after the end."""

from __future__ import annotations

import io
import random
import struct

import cv2
import numpy as np
from PIL import Image

from scripts.trials.damage import png, split
from scripts.trials.field.pictures.metadata import PREFIX, exif, xmp
from scripts.trials.field.pictures.scenes import JPEG, LOSSLESS, Array, Sample, noisy, size, smooth

_SAMPLING = (
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip
_SCANS = b"\xff\xda\0\x0c" * 150


def sample(rng: random.Random) -> Sample:
    """Return a random JPEG."""
    if rng.random() < 0.1:
        return lossless(rng)
    name, data = rng.choice((_of_pillow, _of_opencv))(rng)
    about, data = _described(rng, data)
    after, data = _followed(rng, data)
    return Sample(f"JPEG, {name}{about}{after}", data, JPEG)


def _of_pillow(rng: random.Random) -> tuple[str, bytes]:
    image = Image.fromarray(smooth(rng))
    mode = rng.choice(("RGB", "RGB", "L", "CMYK", "YCbCr"))
    options: dict[str, object] = {"quality": rng.randint(5, 100), "optimize": rng.random() < 0.5}
    is_progressive = rng.random() < 0.4
    has_rgb = mode == "RGB" and rng.random() < 0.2
    if has_rgb:
        options["keep_rgb"] = True
    elif mode == "RGB":
        options["subsampling"] = rng.choice(("4:4:4", "4:2:2", "4:2:0"))
    if rng.random() < 0.3:
        options["restart_marker_rows"] = 1
    name = f"{mode}{', progressive' * is_progressive}{', not YCbCr' * has_rgb}"
    return name, saved(image.convert(mode), "JPEG", progressive=is_progressive, **options)


def _of_opencv(rng: random.Random) -> tuple[str, bytes]:
    sampling = rng.choice(_SAMPLING)
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_RST_INTERVAL, rng.choice((0, 0, 1, 3))]
    options += [cv2.IMWRITE_JPEG_PROGRESSIVE, rng.randrange(2), cv2.IMWRITE_JPEG_QUALITY, rng.randint(5, 100)]
    return f"sampling {sampling:x}", cv2.imencode(".jpg", smooth(rng), options)[1].tobytes()


def _described(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Insert random segments before the pixels. Return a name for the change, and the new data."""
    orientation = rng.randint(1, 8)
    thumbnail = saved(Image.fromarray(smooth(rng, 16, 12)), "JPEG", progressive=rng.random() < 0.5)
    packet = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(orientation))
    name, parts = rng.choice(
        (
            ("", []),
            (", EXIF", [segment(0xE1, PREFIX + exif(rng, orientation))]),
            (", EXIF and thumbnail", [segment(0xE1, PREFIX + exif(rng, orientation, thumbnail))]),
            (", EXIF after XMP", [packet, segment(0xE1, PREFIX + exif(rng, rng.randint(1, 8)))]),
            (", XMP", [packet]),
            (", broken EXIF", [segment(0xE1, PREFIX + rng.choice((b"", b"II*\0", b"II*\0\xff\0\0\0", b"xx*\0")))]),
            (", two EXIFs", [segment(0xE1, PREFIX + exif(rng, orientation)), segment(0xE1, PREFIX)]),
            (", markers in a comment", [segment(0xFE, b"\xff\xd9" + _SCANS + thumbnail)]),
            (", an image in APP13", [segment(0xED, b"Photoshop 3.0\0" + thumbnail)]),
            (", fill bytes", [b"\xff" * 7 + segment(0xFE, b"x")]),
        )
    )
    return name, data[:2] + b"".join(parts) + data[2:]


def _followed(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Append random data after the end. Return a name for the change, and the new data."""
    other = saved(Image.fromarray(smooth(rng)), "JPEG", progressive=True)
    name, after = rng.choice(
        (
            ("", b""),
            (", an MP4 after it", motion_video(rng)),
            (", a JPEG after it", other),
            (", forty JPEGs after it", other * 40),
            (", a ZIP after it", b"PK\3\4" + rng.randbytes(300) + _SCANS),
            (", a PNG after it", png(1, 1)),
            (", zeros after it", bytes(5000)),
            (", scans after it", _SCANS),
        )
    )
    return name, data + after


def motion_video(rng: random.Random) -> bytes:
    """Return data that looks like an MP4, with 150 markers of JPEG scans in it."""
    body = b"".join(rng.randbytes(rng.randint(1, 400)) + b"\xff\xda" for _ in range(150))
    return struct.pack(">I8sII", 24, b"ftypmp42", 0, 0) + b"isom" + struct.pack(">I4s", 8 + len(body), b"mdat") + body


def motion_photo(rng: random.Random, data: bytes) -> bytes:
    """Return a motion photo, which is a JPEG with an MP4 after its end."""
    return data + motion_video(rng)


def segment(marker: int, body: bytes) -> bytes:
    """Return a JPEG segment with its length."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    """Return the image as Pillow encodes it."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def multi_picture(rng: random.Random) -> bytes:
    """Return a random MPO, which is the format of cameras with two lenses."""
    pictures = [Image.fromarray(smooth(rng, 60, 40)) for _ in range(3)]
    return saved(pictures[0], "MPO", save_all=True, append_images=pictures[1:])


def without_end(data: bytes) -> bytes:
    """Return the JPEG without its end marker."""
    return b"".join(part for part in split(data) if not part.startswith(b"\xff\xd9"))


def lossless(rng: random.Random) -> Sample:
    """Return a random lossless JPEG (ITU-T T.81, annex H) with one or three channels of 8 bits."""
    width, height = size(rng)
    channels, predictor = rng.choice((1, 3)), rng.randint(1, 7)
    values = noisy(rng, (height, width, channels))
    truth = np.repeat(values, 3, axis=2) if channels == 1 else values
    return Sample(f"JPEG, lossless, predictor {predictor}", lossless_of(values, predictor), LOSSLESS, truth)


def lossless_of(values: Array, predictor: int) -> bytes:
    """Return a lossless JPEG of ``values``, whose axes are rows, columns, and one or three channels."""
    height, width, channels = values.shape
    ids = [1] if channels == 1 else [82, 71, 66]  # "R", "G" and "B" in ASCII
    frame = struct.pack(">BHHB", 8, height, width, channels) + b"".join(bytes((number, 0x11, 0)) for number in ids)
    # The Huffman table gives each of the 17 categories a code of five bits.
    table = b"\0" + bytes(17 if length == 5 else 0 for length in range(1, 17)) + bytes(range(17))
    scan = bytes((channels,)) + b"".join(bytes((number, 0)) for number in ids) + bytes((predictor, 0, 0))
    data = b"\xff\xd8" + segment(0xC3, frame) + segment(0xC4, table) + segment(0xDA, scan)
    return data + _entropy(_differences(values.astype(np.int32), predictor)) + b"\xff\xd9"


def _differences(values: Array, predictor: int) -> Array:
    left, above = np.roll(values, 1, axis=1), np.roll(values, 1, axis=0)
    corner = np.roll(above, 1, axis=1)
    predicted: Array = (
        left, above, corner, left + above - corner, left + (above - corner >> 1), above + (left - corner >> 1),
        left + above >> 1,
    )[predictor - 1].copy()  # fmt: skip
    predicted[:, 0] = above[:, 0]
    predicted[0] = left[0]
    predicted[0, 0] = 128
    return values - predicted


def _entropy(differences: Array) -> bytes:
    bits = []
    for difference in map(int, differences.reshape(-1)):
        category = abs(difference).bit_length()
        bits.append(f"{category:05b}")
        if category:
            bits.append(f"{difference if difference > 0 else difference + (1 << category) - 1:0{category}b}")
    code = "".join(bits)
    code += "1" * (-len(code) % 8)
    return int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\0") if code else b""

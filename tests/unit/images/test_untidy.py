"""Files that lack padding, end markers or checksums are decoded; files that lack pixels are refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from scripts.trials.field.pictures.comparison import MAX_PIXELS
from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.scenes import Pixels, smooth
from serve_app.errors import Undecodable
from serve_app.images.decode import decode

PIXELS = smooth(random.Random(7), 33, 20)
IMAGE = Image.fromarray(PIXELS)


def read(data: bytes) -> Pixels:
    return decode(data, MAX_PIXELS)[:, :, ::-1]


# A row of the BMP has 99 bytes and one byte of padding.
PNG, GIF, BMP = saved(IMAGE, "PNG"), saved(IMAGE.quantize(16), "GIF"), saved(IMAGE, "BMP")
INDEXED, GREY = saved(IMAGE.quantize(16), "BMP"), saved(IMAGE.convert("L"), "BMP")
IMAGE_AT = GIF.index(b"\x2c\0\0\0\0")


def without_offset(bmp: bytes) -> bytes:
    return bmp[:10] + bytes(4) + bmp[14:]


@pytest.mark.parametrize(
    ("untidy", "tidy"),
    [
        (PNG[:-4], PNG),
        (PNG[:-7], PNG),
        (PNG[:-12], PNG),
        (BMP[:-1], BMP),
        (without_offset(BMP), BMP),
        (without_offset(INDEXED), INDEXED),
        (without_offset(GREY), GREY),
        (GREY[:-3], GREY),
        (GIF[:IMAGE_AT] + b"\0" + GIF[IMAGE_AT:], GIF),
        (GIF[:-1], GIF),
        (GIF[:-2], GIF),
        (GIF[:-2] + b";", GIF),
    ],
    ids=[
        "PNG without the checksum of its end chunk", "PNG cut inside its end chunk", "PNG without its end chunk",
        "BMP with a short last row", "BMP without a pixel offset", "palette BMP without a pixel offset",
        "grey BMP without a pixel offset", "grey BMP without padding of its last row",
        "GIF with a zero before its image", "GIF without its trailer", "GIF without trailer and block terminator",
        "GIF without a block terminator",
    ],
)  # fmt: skip
def test_a_picture_with_all_its_pixels_is_decoded(untidy: bytes, tidy: bytes) -> None:
    assert np.array_equal(read(untidy), read(tidy))


@pytest.mark.parametrize(
    "data", [PNG[:-17], PNG[:-40], PNG[:33], PNG[:33] + PNG[-12:], BMP[:-2], GREY[:-4], GIF[:-3], GIF[:-20] + b"\0;"]
)
def test_a_picture_with_missing_pixels_is_refused(data: bytes) -> None:
    with pytest.raises(Undecodable):
        read(data)


def test_a_png_with_only_half_of_its_pixels_is_refused() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    data = saved(image, "PNG")
    second = data.index(b"IDAT", data.index(b"IDAT") + 4) - 4
    with pytest.raises(Undecodable):
        read(data[:second])

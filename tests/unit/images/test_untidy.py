"""Pictures whose writers left out what is no pixel are read; a pixel that is not there is not made up."""

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


PNG, GIF, BMP = saved(IMAGE, "PNG"), saved(IMAGE.quantize(16), "GIF"), saved(IMAGE, "BMP")  # BMP: 99 bytes a row
INDEXED, GREY = saved(IMAGE.quantize(16), "BMP"), saved(IMAGE.convert("L"), "BMP")
IMAGE_AT = GIF.index(b"\x2c\0\0\0\0")


def without_place(bmp: bytes) -> bytes:
    return bmp[:10] + bytes(4) + bmp[14:]


@pytest.mark.parametrize(
    ("untidy", "tidy"),
    [
        (PNG[:-4], PNG),
        (PNG[:-7], PNG),
        (PNG[:-12], PNG),
        (BMP[:-1], BMP),
        (without_place(BMP), BMP),
        (without_place(INDEXED), INDEXED),
        (without_place(GREY), GREY),
        (GREY[:-3], GREY),
        (GIF[:IMAGE_AT] + b"\0" + GIF[IMAGE_AT:], GIF),
        (GIF[:-1], GIF),
        (GIF[:-2], GIF),
        (GIF[:-2] + b";", GIF),
    ],
    ids=[
        "PNG without its end's checksum", "PNG cut in its end", "PNG without its end", "BMP with a short last row",
        "BMP that does not say where", "BMP of few colours that does not say where", "grey BMP that does not say where",
        "grey BMP whose last row is not filled", "GIF with a zero before its picture", "GIF without its end",
        "GIF without the end of its blocks", "GIF with an end, without that of its blocks",
    ],
)  # fmt: skip
def test_a_picture_that_lacks_no_pixel_is_read(untidy: bytes, tidy: bytes) -> None:
    assert np.array_equal(read(untidy), read(tidy))


@pytest.mark.parametrize(
    "data", [PNG[:-17], PNG[:-40], PNG[:33], PNG[:33] + PNG[-12:], BMP[:-2], GREY[:-4], GIF[:-3], GIF[:-20] + b"\0;"]
)
def test_a_picture_that_lacks_a_pixel_is_refused(data: bytes) -> None:
    with pytest.raises(Undecodable):
        read(data)


def test_a_png_that_ends_after_half_of_its_pixels_is_refused() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    data = saved(image, "PNG")
    second = data.index(b"IDAT", data.index(b"IDAT") + 4) - 4
    with pytest.raises(Undecodable):
        read(data[:second])

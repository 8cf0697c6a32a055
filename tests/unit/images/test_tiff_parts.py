"""A TIFF with missing or incomplete strips or tiles is refused, never decoded with black areas."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from scripts.trials.field.pictures import tiff
from scripts.trials.field.pictures.comparison import MAX_PIXELS
from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.scenes import Pixels, smooth
from serve_app.errors import Undecodable
from serve_app.images.decode import decode

COMPRESSIONS = ["tiff_lzw", "packbits", "tiff_adobe_deflate"]


def picture() -> Image.Image:
    return Image.fromarray(smooth(random.Random(7), 60, 40))


def read(data: bytes) -> Pixels:
    return decode(data, MAX_PIXELS)[:, :, ::-1]


def strip_of(data: bytes) -> tuple[int, int]:
    """Return the offset and the size of the only strip."""
    start = data.index(b"\x11\x01", int.from_bytes(data[4:8], "little")) + 8
    sizes = data.index(b"\x17\x01", start) + 8
    return int.from_bytes(data[start : start + 4], "little"), int.from_bytes(data[sizes : sizes + 4], "little")


@pytest.mark.parametrize("compression", COMPRESSIONS[:2])
def test_a_strip_whose_second_half_was_overwritten_is_refused(compression: str) -> None:
    data = saved(picture(), "TIFF", compression=compression)
    assert np.array_equal(read(data), np.asarray(picture()))
    at, size = strip_of(data)
    with pytest.raises(Undecodable):
        read(data[: at + size // 2] + bytes(size - size // 2) + data[at + size :])


@pytest.mark.parametrize("compression", [*COMPRESSIONS, "tiff_ccitt"])
def test_a_strip_whose_declared_size_was_halved_is_refused(compression: str) -> None:
    image = picture().convert("1") if compression == "tiff_ccitt" else picture()
    data = saved(image, "TIFF", compression=compression)
    assert np.array_equal(read(data), np.asarray(image.convert("RGB")))
    _, size = strip_of(data)
    sizes = data.index(b"\x17\x01", int.from_bytes(data[4:8], "little")) + 8
    with pytest.raises(Undecodable):
        read(data[:sizes] + (size // 2).to_bytes(4, "little") + data[sizes + 4 :])


@pytest.mark.parametrize("compression", [5, 8, 32773])
@pytest.mark.parametrize("tile", [None, (16, 32)], ids=["strips", "tiles"])
@pytest.mark.parametrize("is_planar", [False, True])
def test_the_bits_of_a_strip_or_tile_may_come_in_either_order(
    compression: int, tile: tuple[int, int] | None, is_planar: bool
) -> None:
    values = smooth(random.Random(7), 30, 20)
    for is_reversed in (False, True):
        layout = tiff.Layout("<", False, compression, False, is_planar, is_reversed, tile, 7)
        assert np.array_equal(read(tiff.encoded(values, 2, 8, {}, layout)), values)


def test_a_packbits_run_may_continue_in_the_next_row() -> None:
    values = np.full((4, 30, 3), 200, np.uint8)
    layout = tiff.Layout("<", False, 32773, False, False, False, None, 4)
    data = tiff.encoded(values, 2, 8, {}, layout, instead={273: (4, (16,)), 279: (4, (6,))})
    runs = bytes((129, 200, 129, 200, 257 - 104, 200))
    assert np.array_equal(read(data[:16] + runs + data[16 + len(runs) :]), values)


@pytest.mark.parametrize("subsampling", [(2,), (2, 2, 2), (3, 3)])
def test_an_invalid_chroma_subsampling_is_refused(subsampling: tuple[int, ...]) -> None:
    picture = Image.new("YCbCr", (16, 16), (90, 120, 130))
    with pytest.raises(Undecodable):
        decode(saved(picture, "TIFF", tiffinfo={530: subsampling}), MAX_PIXELS)

"""JPEGs that are far larger than the model input are decoded at a half, a quarter or an eighth of their size."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from scripts.trials.field.pictures import jpeg, metadata
from scripts.trials.field.pictures.jpeg import saved
from serve_app.detections import Detections
from serve_app.errors import ServeAppError, TooLarge, Undecodable
from serve_app.images.decode import decode, decode_reduced
from serve_app.images.letterbox import place
from serve_app.images.prepare import annotate, prepare, prepare_new
from serve_app.images.reduced import MARGIN, choose_factor, place_reduced
from serve_app.types import InputShape, Letterbox, Pixels

MAX_PIXELS = 10_000_000
SHAPES = [InputShape(48, 64), InputShape(64, 48), InputShape.square(64)]
ODD_SIZES = [(803, 599), (421, 643), (401, 401), (640, 480)]


def smooth(width: int, height: int) -> Image.Image:
    """Return an image of large soft spots, which has the same pixels at every scale."""
    spots = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC))


def described(data: bytes, orientation: int) -> bytes:
    """Add an Exif orientation to a JPEG."""
    exif = jpeg.segment(0xE1, metadata.PREFIX + metadata.exif(random.Random(0), orientation))
    return data[:2] + exif + data[2:]


def inputs(data: bytes) -> tuple[tuple[Letterbox, Pixels], tuple[Letterbox, Pixels]]:
    """Return the position in the model input and the model input, with exact and with reduced decoding."""
    exact, _, exact_frame = prepare_new(data, MAX_PIXELS, "exact", SHAPES)
    reduced, _, reduced_frame = prepare_new(data, MAX_PIXELS, "reduced", SHAPES)
    return (exact, exact_frame), (reduced, reduced_frame)


def difference(some: Pixels, other: Pixels) -> int:
    return int(np.abs(some.astype(int) - other).max())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_a_reduced_image_fills_the_model_input_as_the_whole_image_does(size: tuple[int, int], orientation: int) -> None:
    data = described(saved(smooth(*size), "JPEG", quality=95), orientation)
    assert decode_reduced(data, MAX_PIXELS, SHAPES[-1]).factor > 1
    (exact, exact_frame), (reduced, reduced_frame) = inputs(data)
    assert reduced == exact
    assert difference(reduced_frame, exact_frame) <= 12


def restarting(image: Image.Image) -> bytes:
    return saved(image, "JPEG", quality=95, restart_marker_blocks=3)


def multi_picture(image: Image.Image) -> bytes:
    return saved(image, "MPO", quality=95, save_all=True, append_images=[image.rotate(90)])


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "4:2:0": lambda image: saved(image, "JPEG", quality=95, subsampling="4:2:0"),
    "4:2:2": lambda image: saved(image, "JPEG", quality=95, subsampling="4:2:2"),
    "4:4:4": lambda image: saved(image, "JPEG", quality=95, subsampling="4:4:4"),
    "progressive": lambda image: saved(image, "JPEG", quality=95, progressive=True),
    "grey": lambda image: saved(image.convert("L"), "JPEG", quality=95),
    "CMYK": lambda image: saved(image.convert("CMYK"), "JPEG", quality=95),
    "restart markers": restarting,
    "multi-picture": multi_picture,
    "data after the image": lambda image: saved(image, "JPEG", quality=95) + b"\xff\xd8" + bytes(1000),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_jpeg_can_be_reduced(kind: str) -> None:
    data = KINDS[kind](smooth(803, 599))
    image = decode_reduced(data, MAX_PIXELS, SHAPES[-1])
    assert (image.factor, image.pixels.shape, image.width_px, image.height_px) == (8, (75, 101, 3), 803, 599)
    (exact, exact_frame), (reduced, reduced_frame) = inputs(data)
    assert reduced == exact
    assert difference(reduced_frame, exact_frame) <= 12


def outcome(read: Callable[..., Any], *arguments: Any) -> str:
    try:
        read(*arguments)
    except ServeAppError as exc:
        return f"{exc.code}: {exc.detail}"
    return "decoded"


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_jpeg_is_refused_exactly_as_in_full(kind: str) -> None:
    data = KINDS[kind](smooth(403, 299))
    end = len(data) if kind not in ("multi-picture", "data after the image") else data.index(b"\xff\xd9") + 2
    ends = {*range(2, end, max(end // 60, 1)), *range(end - 40, end)}
    outcomes = [
        (outcome(decode, data[:at], MAX_PIXELS), outcome(decode_reduced, data[:at], MAX_PIXELS, SHAPES[-1]))
        for at in ends
    ]
    assert [pair for pair in outcomes if pair[0] != pair[1]] == []
    assert sum(exact != "decoded" for exact, _ in outcomes) > 50


@pytest.mark.parametrize(
    ("size", "shape", "factor"),
    [
        ((4000, 3000), InputShape.square(640), 4),
        ((3000, 4000), InputShape.square(640), 4),
        ((4000, 3000), InputShape.square(1280), 2),
        ((640, 480), InputShape.square(640), 1),
        ((8000, 6000), InputShape.square(640), 8),
        ((40_000, 3000), InputShape.square(640), 8),
        ((1, 4000), InputShape.square(640), 1),  # in the model input, it is one pixel wide
        ((4000, 1), InputShape.square(640), 1),
    ],
    ids=str,
)
def test_the_largest_factor_that_leaves_enough_pixels_is_chosen(
    size: tuple[int, int], shape: InputShape, factor: int
) -> None:
    assert choose_factor(*size, shape) == factor


def test_a_reduced_image_has_at_least_the_margin() -> None:
    for side_px in range(60, 1200):
        factor = choose_factor(side_px, side_px, SHAPES[-1])
        assert factor == 1 or side_px / factor >= MARGIN * 64
        assert factor == 8 or side_px / (2 * factor) < MARGIN * 64


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_are_decoded_in_full(image_format: str) -> None:
    (exact, exact_frame), (reduced, reduced_frame) = inputs(saved(smooth(803, 599), image_format))
    assert reduced == exact
    assert np.array_equal(reduced_frame, exact_frame)


@pytest.mark.parametrize("size", [(80, 60), (60, 80), (1, 4000), (4000, 1), (64, 64)], ids=str)
def test_an_image_that_is_hardly_larger_than_the_model_input_is_decoded_in_full(size: tuple[int, int]) -> None:
    (exact, exact_frame), (reduced, reduced_frame) = inputs(saved(smooth(*size), "JPEG"))
    assert reduced == exact
    assert np.array_equal(reduced_frame, exact_frame)


@pytest.mark.parametrize("seed", range(4))
def test_a_lossless_jpeg_is_decoded_in_full(seed: int) -> None:
    data = jpeg.lossless(random.Random(seed)).data
    image = decode_reduced(data, MAX_PIXELS, InputShape.square(1), 0.1)
    assert np.array_equal(image.pixels, decode(data, MAX_PIXELS))


def test_a_jpeg_with_arithmetic_coding_is_read_as_in_full() -> None:
    data = saved(smooth(403, 299), "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1)  # the pixels are noise
    assert outcome(decode_reduced, data, MAX_PIXELS, SHAPES[-1]) == outcome(decode, data, MAX_PIXELS)


def test_the_limits_hold_for_reduced_decoding() -> None:
    data = saved(smooth(803, 599), "JPEG", progressive=True)
    with pytest.raises(TooLarge):
        decode_reduced(data, 803 * 599 - 1, SHAPES[-1])
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(Undecodable, match="scans"):
        decode_reduced(data[:-2] + 101 * last_scan + data[-2:], MAX_PIXELS, SHAPES[-1])


def test_a_reduced_image_takes_a_fraction_of_the_memory() -> None:
    data = saved(smooth(803, 599), "JPEG")
    assert decode_reduced(data, MAX_PIXELS, SHAPES[-1]).pixels.nbytes * 60 < decode(data, MAX_PIXELS).nbytes


def test_an_image_is_reduced_alike_for_every_set_of_shapes() -> None:
    """A smaller shape is chosen only for an image that has the same size in it as in the largest shape."""
    data = saved(smooth(803, 599), "JPEG")
    in_rectangle, square = np.empty((48, 64, 3), np.uint8), np.empty((64, 64, 3), np.uint8)
    prepare(data, MAX_PIXELS, "reduced", SHAPES, lambda _: in_rectangle)
    prepare(data, MAX_PIXELS, "reduced", SHAPES[-1:], lambda _: square)
    assert np.array_equal(in_rectangle, square[8:56])


def test_exact_decoding_reduces_nothing() -> None:
    data = saved(smooth(803, 599), "JPEG")
    frame, expected = np.empty((48, 64, 3), np.uint8), np.empty((48, 64, 3), np.uint8)
    prepare(data, MAX_PIXELS, "exact", SHAPES, lambda _: frame)
    place(decode(data, MAX_PIXELS), SHAPES, lambda _: expected)
    assert np.array_equal(frame, expected)
    place_reduced(decode_reduced(data, MAX_PIXELS, SHAPES[-1]), SHAPES, lambda _: expected)
    assert not np.array_equal(frame, expected)


def test_boxes_are_drawn_on_the_whole_image() -> None:
    data = described(saved(smooth(803, 599), "JPEG"), 6)
    nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), labels=())
    assert decode(annotate(data, MAX_PIXELS, nothing), MAX_PIXELS).shape == (803, 599, 3)

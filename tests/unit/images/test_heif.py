"""HEIC and AVIF: tiles, rotations, crops, and small files that are expensive to decode."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from scripts.trials.field.pictures import phones
from scripts.trials.field.pictures.comparison import MAX_PIXELS, difference, of_pillow
from scripts.trials.field.pictures.heif import (
    QUADRANTS,
    Part,
    box,
    coded,
    crop,
    file,
    grid,
    mirror,
    quadrants,
    size_of,
    tiled,
    turn,
)  # fmt: skip
from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.scenes import LOSSY, Pixels, faint, smooth
from serve_app.errors import ServeAppError, TooLarge, Undecodable
from serve_app.images.decode import decode


def read(data: bytes) -> Pixels:
    return decode(data, MAX_PIXELS)[:, :, ::-1]


def mean_difference(pixels: Pixels, truth: Pixels) -> float:
    """Return the mean difference of two images. HEIC blurs the quadrants' edges, so the difference is never zero."""
    assert pixels.shape == truth.shape
    return float(np.abs(pixels.astype(int) - truth).mean())


def test_a_heic_decodes_to_the_picture_that_was_encoded() -> None:
    assert mean_difference(read(file([quadrants()])), QUADRANTS) < 6


@pytest.mark.parametrize(
    ("properties", "truth"),
    [
        ((turn(90),), np.rot90(QUADRANTS, 1)),
        ((turn(180),), np.rot90(QUADRANTS, 2)),
        ((turn(270),), np.rot90(QUADRANTS, 3)),
        ((mirror(0),), QUADRANTS[::-1]),
        ((mirror(1),), QUADRANTS[:, ::-1]),
        ((turn(90), mirror(1)), np.rot90(QUADRANTS, 1)[:, ::-1]),
        ((mirror(1), turn(90)), np.rot90(QUADRANTS[:, ::-1], 1)),
        ((crop(32, 64, 16),), QUADRANTS[:, 32:]),
        ((crop(64, 32, 0, -16), turn(90)), np.rot90(QUADRANTS[:32], 1)),
    ],
)
def test_a_heic_is_rotated_mirrored_and_cropped_in_the_order_of_its_properties(
    properties: tuple[bytes, ...], truth: Pixels
) -> None:
    assert mean_difference(read(file([quadrants(*properties)])), truth) < 7


def test_the_tiles_of_a_heic_are_put_side_by_side_and_cut_at_its_edge() -> None:
    parts = grid([quadrants()] * 6, 3, 180, 100, (turn(180),))
    assert mean_difference(read(file(parts, len(parts))), np.rot90(np.tile(QUADRANTS, (2, 3, 1))[:100, :180], 2)) < 7


def test_each_tile_of_a_heic_is_rotated_and_cropped_by_its_own_properties() -> None:
    parts = grid([quadrants(turn(90))] * 4, 2, 120, 128)
    assert mean_difference(read(file(parts, len(parts))), np.tile(np.rot90(QUADRANTS, 1), (2, 2, 1))[:, :120]) < 7
    parts = grid([quadrants(crop(64, 32), turn(90)), quadrants(turn(90), crop(32, 64))], 2, 64, 64)
    truth = np.concatenate([np.rot90(QUADRANTS[16:48], 1), np.rot90(QUADRANTS, 1)[:, 16:48]], axis=1)
    assert mean_difference(read(file(parts, len(parts))), truth) < 7


def test_tiles_of_different_sizes_are_refused() -> None:
    parts = grid([quadrants(), quadrants(crop(32, 64))], 2, 96, 64)
    with pytest.raises(Undecodable):
        read(file(parts, len(parts)))


@pytest.mark.parametrize(
    ("clap", "rows", "columns"),  # the results of libheif 1.23
    [
        ((41, 1, 51, 1, 0, 1, 0, 1), slice(7, 58), slice(11, 52)),
        ((33, 1, 63, 1, 1, 1, 0, 1), slice(1, 64), slice(16, 49)),
        ((81, 2, 101, 2, 1, 2, -1, 2), slice(6, 57), slice(12, 53)),
    ],
)
def test_a_crop_edge_inside_a_pixel_is_rounded_as_libheif_rounds_it(
    clap: tuple[int, ...], rows: slice, columns: slice
) -> None:
    whole = read(file([quadrants()]))
    data = file([quadrants(box(b"clap", struct.pack(">8i", *clap)))])
    assert np.array_equal(read(data), whole[rows, columns])


def test_an_identity_item_decodes_to_the_picture_it_refers_to() -> None:
    parts = [quadrants(), Part(b"iden", b"", (size_of(64, 64), turn(90)), (1,))]
    assert mean_difference(read(file(parts, 2)), np.rot90(QUADRANTS, 1)) < 7


def test_a_picture_with_a_gain_map_decodes_to_its_base_picture() -> None:
    other = quadrants(turn(180))
    parts = [quadrants(), other, Part(b"tmap", b"\0" * 62, (size_of(64, 64),), (1, 2))]
    assert mean_difference(read(file(parts, 3)), QUADRANTS) < 6


@pytest.mark.parametrize("sampling", ["4:0:0", "4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("colour_range", ["full", "limited"])
def test_an_avif_decodes_as_with_pillow(sampling: str, colour_range: str) -> None:
    image = Image.fromarray(smooth(random.Random(3), 67, 45))
    data = saved(image, "AVIF", subsampling=sampling, range=colour_range, speed=10)
    assert difference(read(data), of_pillow(data), LOSSY) == ""


def test_a_tiled_avif_decodes_as_with_pillow() -> None:
    sample = tiled(random.Random(2))
    assert difference(read(sample.data), of_pillow(sample.data), LOSSY) == ""


@pytest.mark.parametrize("seed", range(3))
def test_a_heic_decodes_as_with_libheif(seed: int) -> None:
    pytest.importorskip("pillow_heif", reason="needs pillow-heif, which writes HEIC")
    sample = phones.heic(random.Random(seed))
    assert sample is not None
    assert difference(read(sample.data), of_pillow(sample.data), LOSSY) == ""


def test_the_size_in_the_header_is_checked_before_anything_is_decoded() -> None:
    still = quadrants()
    large = replace(still, properties=(still.properties[0], size_of(40_000, 40_000)))
    with pytest.raises(TooLarge):
        read(file([large]))
    parts = grid([quadrants()] * 4, 2, 40_000, 40_000)
    with pytest.raises(TooLarge):
        read(file(parts, len(parts)))


def test_a_still_that_is_larger_than_its_header_says_is_refused() -> None:
    still = quadrants()
    with pytest.raises(Undecodable):
        read(file([replace(still, properties=(still.properties[0], size_of(16, 16)))]))
    wide = coded(saved(Image.fromarray(smooth(random.Random(0), 900, 900)), "AVIF", speed=10))
    parts = [replace(wide, properties=(wide.properties[0], size_of(100, 100)))]
    kept = tuple(each for each in wide.properties if each[4:8] != b"ispe")
    with pytest.raises(Undecodable):
        read(file([replace(parts[0], properties=(*kept, size_of(100, 100)))], brand=b"avif"))


def repeated(still: Part, times: int) -> bytes:
    """Return a grid whose tiles all share one kilobyte of data, so that a decoder reads this data many times."""
    parts = grid([still], 1, 64, 64)
    head = bytes((0, 0, 0, times - 1)) + struct.pack(">HH", 64 * times, 64)
    parts[-1] = Part(b"grid", head, (size_of(64 * times, 64),), (1,) * times)
    return file(parts, len(parts))


BAD: dict[str, bytes] = {
    "a sequence alone": box(b"ftyp", b"msf1", bytes(4), b"hevc") + box(b"moov", bytes(50)),
    "one tile many times": repeated(quadrants(), 200),
    "a grid without its tiles": file([*[quadrants()] * 3, Part(b"grid", bytes((0, 0, 4, 4, 1, 0, 1, 0)))], 4),
    "a grid of itself": file([Part(b"grid", bytes((0, 0, 0, 0, 0, 64, 0, 64)), (size_of(64, 64),), (1,))]),
    "an identity item of itself": file([Part(b"iden", b"", (size_of(64, 64),), (1,))]),
    "no size": file([replace(quadrants(), properties=quadrants().properties[:1])]),
    "no configuration": file([replace(quadrants(), properties=quadrants().properties[1:])]),
    "many slices": file([replace(quadrants(), payload=quadrants().payload * 101)]),
    "slices of a video": file([replace(quadrants(), payload=b"\0\0\0\4\2\1\0\0")]),
    "a crop of nothing": file([quadrants(crop(0, 0))]),
    "a crop outside of the image": file([quadrants(crop(64, 64, 40))]),
    "a missing primary image": file([quadrants()], 7),
    "cut off": file([quadrants()])[:-20],
    "a header alone": file([quadrants()])[:100],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_heic_is_refused(name: str) -> None:
    with pytest.raises(Undecodable):
        read(BAD[name])


@pytest.mark.parametrize(
    ("kind", "name"), [(b"jpeg", "JPEG"), (b"avc1", "H.264"), (b"unci", "uncompressed"), (b"iovl", "overlaid")]
)
def test_the_error_for_an_unsupported_heif_item_names_its_kind(kind: bytes, name: str) -> None:
    with pytest.raises(Undecodable, match=name):
        read(file([replace(quadrants(), kind=kind)]))


def test_an_avif_with_several_frames_is_refused() -> None:
    still = coded(saved(Image.fromarray(faint(smooth(random.Random(0), 64, 64))), "AVIF", speed=10))
    with pytest.raises(Undecodable, match="several frames"):
        read(file([replace(still, payload=still.payload * 3)], brand=b"avif"))


def test_a_damaged_heic_or_avif_is_decoded_or_refused() -> None:
    from scripts.trials.damage import damaged

    rng = random.Random(0)
    whole = [file([quadrants(turn(90))]), file(grid([quadrants()] * 4, 2, 120, 100), 5), tiled(rng).data]
    for _ in range(300):
        try:
            pixels = read(damaged(rng, rng.choice(whole), rng.choice(whole)))
        except ServeAppError:
            continue
        assert pixels.size <= 3 * MAX_PIXELS

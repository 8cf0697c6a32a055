"""Images like those of phones, cameras and editors are decoded correctly, or refused with the name of their format."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from PIL import Image

from scripts.trials.damage import png_chunk, split
from scripts.trials.field.pictures import bmp, jpeg, metadata, phones, tiff
from scripts.trials.field.pictures.comparison import DIFFERENT, MAX_PIXELS, difference, of_pillow, samples, verdict
from scripts.trials.field.pictures.jpeg import saved
from scripts.trials.field.pictures.scenes import JPEG, LOSSLESS, Pixels, smooth, upright
from serve_app.errors import NotAnImage, TooLarge, Undecodable
from serve_app.images.decode import decode
from tests.conftest import needs_shared
from tests.support.paths import SHARED


def rng() -> random.Random:
    return random.Random(7)


def read(data: bytes) -> Pixels:
    return decode(data, MAX_PIXELS)[:, :, ::-1]


def plain_jpeg(**options: object) -> bytes:
    return saved(Image.fromarray(smooth(rng(), 60, 40)), "JPEG", **options)


@pytest.mark.parametrize("is_progressive", [False, True])
def test_a_motion_photo_decodes_to_its_first_picture(is_progressive: bool) -> None:
    photo = plain_jpeg(progressive=is_progressive)
    assert np.array_equal(read(jpeg.motion_photo(rng(), photo)), read(photo))


@pytest.mark.parametrize("count", [1, 40])
def test_pictures_after_the_first_jpeg_of_a_file_are_ignored(count: int) -> None:
    photo = plain_jpeg()
    assert np.array_equal(read(photo + plain_jpeg(progressive=True) * count), read(photo))


def test_a_multi_picture_file_decodes_to_its_first_picture() -> None:
    data = jpeg.multi_picture(rng())
    assert difference(read(data), of_pillow(data), JPEG) == ""


def test_markers_inside_a_thumbnail_or_a_comment_do_not_count_as_scans() -> None:
    photo = plain_jpeg()
    comment = jpeg.segment(0xFE, b"\xff\xda\xff\xd9" * 200)
    exif = jpeg.segment(0xE1, metadata.PREFIX + metadata.exif(rng(), 1, photo))
    assert np.array_equal(read(photo[:2] + comment + exif + photo[2:]), read(photo))


def test_the_scans_of_the_first_picture_are_limited() -> None:
    photo = plain_jpeg(progressive=True)
    last_scan = photo[photo.rindex(b"\xff\xda") : -2]
    with pytest.raises(Undecodable, match="scans"):
        read(photo[:-2] + 101 * last_scan + photo[-2:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("prefix", [b"", metadata.PREFIX, metadata.PREFIX * 2], ids=["bare", "prefix", "two prefixes"])
def test_the_exif_orientation_of_webp_and_png_is_applied_with_any_prefix(orientation: int, prefix: bytes) -> None:
    pixels = smooth(rng(), 30, 20)
    block = prefix + metadata.exif(rng(), orientation)
    webp = phones.webp_with(saved(Image.fromarray(pixels), "WEBP", lossless=True), pixels.shape, [(b"EXIF", block)])
    assert np.array_equal(read(webp), upright(pixels, orientation))
    head, *chunks = split(saved(Image.fromarray(pixels), "PNG"))
    for index in (1, len(chunks) - 1):
        described = b"".join((head, *chunks[:index], png_chunk(b"eXIf", block), *chunks[index:]))
        assert np.array_equal(read(described), upright(pixels, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_or_xmp_orientation_of_a_jpeg_is_applied(orientation: int) -> None:
    photo = plain_jpeg()
    for body in (
        metadata.PREFIX + metadata.exif(rng(), orientation),
        b"http://ns.adobe.com/xap/1.0/\0" + metadata.xmp(orientation),
    ):
        described = photo[:2] + jpeg.segment(0xE1, body) + photo[2:]
        assert np.array_equal(read(described), upright(read(photo), orientation))


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"xx*\0", b"MM\0*\0\0\0\x08\xff\xff"])
def test_broken_exif_leaves_the_picture_as_it_is(exif: bytes) -> None:
    photo = plain_jpeg()
    described = photo[:2] + jpeg.segment(0xE1, metadata.PREFIX + exif) + photo[2:]
    assert np.array_equal(read(described), read(photo))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [0, 2], ids=["unspecified", "unassociated"])
@pytest.mark.parametrize("photometric", [1, 2], ids=["grey", "RGB"])
def test_the_alpha_of_a_tiff_is_dropped(bits: int, alpha: int, photometric: int) -> None:
    channels = 3 if photometric == 2 else 1
    colours = smooth(rng(), 30, 20)[:, :, :channels].astype(np.uint16) * (1 if bits == 8 else 257)
    values = np.concatenate([colours, np.zeros_like(colours[:, :, :1])], axis=2)
    layout = tiff.Layout("<", False, 1, False, False, False, None, 16)
    data = tiff.encoded(values, photometric, bits, {338: (3, (alpha,))}, layout)
    truth = np.broadcast_to(colours // (1 if bits == 8 else 257), (20, 30, 3)).astype(np.uint8)
    assert difference(read(data), truth, LOSSLESS) == ""


def test_premultiplied_alpha_of_a_tiff_is_divided_out() -> None:
    colours, alpha = np.full((8, 8, 3), 200), np.full((8, 8, 1), 51)
    values = np.concatenate([colours * alpha // 255, alpha], axis=2).astype(np.uint8)
    layout = tiff.Layout(">", False, 8, False, False, False, None, 16)
    assert np.all(read(tiff.encoded(values, 2, 8, {338: (3, (1,))}, layout)) == 200)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_tile_that_extends_beyond_the_edge_is_decoded_correctly(photometric: int, bits: int) -> None:
    grey = smooth(rng(), 83, 61)[:, :, :1].astype(np.uint16)
    values = np.concatenate([grey, grey], axis=2) if bits == 8 else grey * 257
    layout = tiff.Layout("<", True, 8, False, False, False, (32, 48), 16)
    data = tiff.encoded(values, photometric, bits, {338: (3, (2,))} if bits == 8 else {}, layout)
    truth = np.repeat(grey if photometric else 255 - grey, 3, axis=2).astype(np.uint8)
    assert difference(read(data), truth, LOSSLESS) == ""


def test_a_thumbnail_before_the_picture_is_skipped() -> None:
    values = smooth(rng(), 30, 20)
    layout = tiff.Layout("<", False, 1, False, False, False, None, 16)
    assert np.array_equal(read(tiff.encoded(values, 2, 8, {}, layout, has_thumbnail=True)), values)


@pytest.mark.parametrize("seed", range(20))
def test_a_run_length_bmp_is_decoded_correctly(seed: int) -> None:
    sample = bmp.run_length(random.Random(seed))
    assert sample.truth is not None
    assert np.array_equal(read(sample.data), sample.truth)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)], ids=["RGB", "BGR"])
def test_the_colour_masks_of_a_bmp_are_applied(bits: int, order: tuple[int, int, int]) -> None:
    masks = [0xF800, 0x07E0, 0x001F] if bits == 16 else [0xFF000000, 0xFF0000, 0xFF00]
    red, green, blue = (masks[index] for index in order)
    info = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, bits, 3, 0, 0, 0, 0, 0) + struct.pack("<III", red, green, blue)
    data = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 66) + info + struct.pack("<I", red)
    assert read(data).tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_lossless_jpeg_is_decoded_without_loss(channels: int) -> None:
    picked = random.Random(channels)
    sample = next(
        each
        for each in iter(lambda: jpeg.lossless(picked), None)
        if each.data[each.data.index(b"\xff\xc3") + 9] == channels
    )
    assert sample.truth is not None
    assert np.array_equal(read(sample.data), sample.truth)


def test_a_gif_decodes_to_its_first_picture_with_the_colours_of_transparent_pixels() -> None:
    images = [Image.fromarray(smooth(random.Random(seed), 30, 20)).quantize(16) for seed in range(3)]
    data = saved(images[0], "GIF", save_all=True, append_images=images[1:], transparency=2)
    assert np.array_equal(read(data), np.asarray(images[0].convert("RGB")))


def test_a_gif_picture_smaller_than_its_screen_keeps_its_position() -> None:
    data = phones.placed_gif(rng())
    pixels = read(data)
    assert pixels.shape == (30, 40, 3)
    assert np.array_equal(pixels[9:19, 7:27], of_pillow(data)[9:19, 7:27])


def test_a_gif_whose_header_claims_too_many_pixels_is_not_decoded() -> None:
    data = phones.placed_gif(rng())
    with pytest.raises(TooLarge):
        read(data[:6] + struct.pack("<HH", 60_000, 60_000) + data[10:])


VIDEO = "this is a video (MP4 or QuickTime): add it as a stream, or send JPEG"
UNSUPPORTED = {
    "JPEG XL": b"\xff\x0a" + bytes(50),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50),
    "Photoshop": b"8BPS\0\1" + bytes(50),
    "PDF": b"%PDF-1.7\n",
    "icon": b"\0\0\1\0\1\0" + bytes(50),
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "HTML": b"<!DOCTYPE html><title>no</title>",
    "camera's raw file": b"FUJIFILMCCD-RAW 0201" + bytes(50),
    "MP4 or QuickTime": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(50),
    "Matroska": b"\x1aE\xdf\xa3" + bytes(50),
    "data URL": b"data:image/jpeg;base64,/9j/4AAQ",
    "base64": b"/9j/4AAQSkZJRgABAQ",
    "ZIP": b"PK\3\4" + bytes(50),
    "Netpbm": b"P6\n1 1\n255\nabc",
    "JSON": b'{"image": "x"}',
}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", VIDEO),
        (b"\0\0\1\0moov" + bytes(248), VIDEO),
        (b"\0\0\1\0ftypqt  " + bytes(244), VIDEO),
        (b"\0\0\0\x08wide\0\0\1\0mdat", VIDEO),
        (b"/9j/4AAQSkZJRgABAQ", "this is base64 text: decode it, and send JPEG"),
        (b"PK\3\4" + bytes(50), "this is a ZIP archive: unpack it, and send JPEG"),
        (b"\0\0\2\0\1\0" + bytes(50), "this is a cursor (CUR): send JPEG"),
        (b"\0\0\1\0\1\0" + bytes(50), "this is an icon (ICO): send JPEG"),
        (saved(Image.fromarray(smooth(rng(), 9, 9)), "TGA"), "this is TGA: send JPEG"),
        (saved(Image.fromarray(smooth(rng(), 9, 9)), "TGA")[:-26], "this is TGA: send JPEG"),
        (saved(Image.fromarray(smooth(rng(), 9, 9)), "TGA", compression="tga_rle")[:-26], "this is TGA: send JPEG"),
        (saved(Image.fromarray(smooth(rng(), 9, 9)).quantize(8), "TGA")[:-26], "this is TGA: send JPEG"),
        (b"abc", "these bytes are not an image: send JPEG"),
    ],
)  # fmt: skip
def test_the_error_for_an_unsupported_format_is_one_sentence(data: bytes, words: str) -> None:
    with pytest.raises(NotAnImage) as error:
        read(data)
    assert error.value.detail.startswith(words)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_the_error_for_an_unsupported_format_names_it(name: str) -> None:
    with pytest.raises(NotAnImage, match=f"{name}.*send JPEG, PNG"):
        read(UNSUPPORTED[name])


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({259: (3, (50000,))}, "zstd"),
        ({262: (3, (8,))}, "L\\*a\\*b"),
        ({339: (3, (3, 3, 3))}, "floating point"),
        ({258: (3, (12, 12, 12))}, "12/12/12 bits"),
        ({254: (4, (1,)), 330: (4, (8,))}, "raw file"),
        ({50706: (1, (1, 4, 0, 0))}, "raw file"),
    ],
)
def test_the_error_for_an_unsupported_tiff_names_the_reason(
    tags: dict[int, tuple[int, tuple[int, ...]]], name: str
) -> None:
    layout = tiff.Layout("<", False, 1, False, False, False, None, 16)
    with pytest.raises(Undecodable, match=name):
        read(tiff.encoded(smooth(rng(), 30, 20), 2, 8, {}, layout, instead=tags))


@pytest.mark.parametrize("sizes", [(1800,), (10_000,)], ids=["as it is", "too large"])
def test_a_tiff_that_overstates_the_size_of_its_last_strip_is_decoded(sizes: tuple[int, ...]) -> None:
    values = smooth(rng(), 30, 20)
    layout = tiff.Layout("<", False, 1, False, False, False, None, 200)
    assert np.array_equal(read(tiff.encoded(values, 2, 8, {}, layout, instead={279: (4, sizes)})), values)


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
def test_a_tiff_that_is_cut_off_is_refused(compression: int) -> None:
    values = smooth(rng(), 30, 20)
    layout = tiff.Layout("<", False, compression, False, False, False, None, 4)
    start = 16_000_000  # beyond the end of the file
    with pytest.raises(Undecodable):
        read(tiff.encoded(values, 2, 8, {}, layout, instead={273: (4, (16, 100, 200, 300, start))}))


def test_a_thumbnail_without_another_picture_is_decoded() -> None:
    values = smooth(rng(), 30, 20)
    layout = tiff.Layout("<", False, 1, False, False, False, None, 16)
    assert np.array_equal(read(tiff.encoded(values, 2, 8, {}, layout, instead={254: (4, (1,))})), values)


def test_the_error_for_a_twelve_bit_jpeg_names_the_reason() -> None:
    photo = bytearray(plain_jpeg())
    photo[photo.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(Undecodable, match="a JPEG with 12 bits"):
        read(bytes(photo))


def test_generated_pictures_decode_as_they_were_written_and_as_pillow_decodes_them() -> None:
    """``python -m scripts.trials.field.pictures --count 2000`` checks more images."""
    found = [verdict(*each) for each in samples(1, 300, families=("JPEG", "PNG", "TIFF", "BMP", "WebP", "GIF"))]
    assert [each for each in found if each.result == DIFFERENT] == []


@needs_shared
def test_pictures_that_failed_in_the_field_are_decoded() -> None:
    folder = SHARED / "field"
    if not folder.is_dir():
        pytest.skip("needs ../shared/field")
    photo = (folder / "motion_photo.jpg").read_bytes()
    assert difference(read(photo), of_pillow(photo), JPEG) == ""
    turned, upright_one = (
        read((folder / f"phone_exif_{kind}_prefix.webp").read_bytes()) for kind in ("with", "without")
    )
    assert turned.shape == upright_one.shape == (300, 400, 3)
    transparent = [read((folder / f"rgba_alpha0.{kind}").read_bytes()) for kind in ("tif", "png")]
    assert np.array_equal(transparent[0], transparent[1])

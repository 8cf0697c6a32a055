from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from scripts.trials.bombs import BOMBS, after, tiff
from scripts.trials.damage import pictures, png, png_chunk
from serve_app.errors import Malformed, NotAnImage, ServeAppError, TooLarge, Undecodable
from serve_app.images.decode import decode
from tests.support.damaged_pictures import decode_damaged
from tests.support.hostile import CRASHING_PNG, png_of

MAX_PIXELS = 50_000_000


def gradient() -> np.ndarray:
    """Return a smooth BGR image of 40 rows and 60 columns, whose red corner shows orientation and colour order."""
    pixels = np.full((40, 60, 3), 96, np.uint8)
    pixels[:, :, 1] = np.linspace(0, 255, 60).astype(np.uint8)
    pixels[:20, :20] = (0, 0, 255)
    return pixels


def encoded(extension: str) -> bytes:
    return cv2.imencode(extension, gradient())[1].tobytes()


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(gradient()[:, :, ::-1].copy())


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_every_format_decodes_to_the_same_picture(extension: str) -> None:
    pixels = decode(encoded(extension), MAX_PIXELS)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - gradient()).mean() < 8  # JPEG and WebP are lossy


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(saved(rgb().convert("L"), "PNG"), id="gray"),
        pytest.param(saved(rgb().convert("LA"), "PNG"), id="gray and alpha"),
        pytest.param(saved(rgb().convert("RGBA"), "PNG"), id="alpha"),
        pytest.param(saved(rgb().convert("P"), "PNG"), id="palette"),
        pytest.param(saved(rgb().convert("1"), "TIFF"), id="bilevel"),
        pytest.param(saved(rgb().convert("CMYK"), "JPEG"), id="CMYK JPEG"),
        pytest.param(saved(rgb(), "JPEG", progressive=True), id="progressive JPEG"),
        pytest.param(saved(rgb().convert("RGBA"), "WEBP", lossless=True), id="WebP with alpha"),
        pytest.param(cv2.imencode(".png", gradient().astype(np.uint16) * 257)[1].tobytes(), id="16 bits PNG"),
        pytest.param(cv2.imencode(".tiff", gradient().astype(np.uint16) * 257)[1].tobytes(), id="16 bits TIFF"),
    ],
)
def test_every_kind_of_pixel_becomes_three_channels_of_eight_bits(data: bytes) -> None:
    pixels = decode(data, MAX_PIXELS)
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 10  # not blank


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied(image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the image needs a quarter turn clockwise
    pixels = decode(saved(rgb(), image_format, exif=exif), MAX_PIXELS)
    assert pixels.shape == (60, 40, 3)
    assert pixels[5, 35, 2] > 200  # the red corner is now at the top right
    assert pixels[5, 5, 2] < 150


def test_sixteen_bits_are_scaled_to_eight() -> None:
    data = cv2.imencode(".png", gradient().astype(np.uint16) * 257)[1].tobytes()
    assert np.abs(decode(data, MAX_PIXELS).astype(int) - gradient()).max() <= 1


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"", Malformed, id="empty"),
        pytest.param(b"<!doctype html><html><body>no</body></html>", NotAnImage, id="HTML"),
        pytest.param(b"GIF89a" + bytes(100), Undecodable, id="GIF signature alone"),
        pytest.param(b"\xff", NotAnImage, id="one byte"),
        pytest.param(b"\xff\xd8\xff" + bytes(100), Undecodable, id="JPEG signature alone"),
        pytest.param(encoded(".jpg")[:-40], Undecodable, id="truncated JPEG"),
        pytest.param(encoded(".png")[:-40], Undecodable, id="truncated PNG"),
        pytest.param(encoded(".webp")[:-40], Undecodable, id="truncated WebP"),
        pytest.param(encoded(".bmp")[:-40], Undecodable, id="truncated BMP"),
        pytest.param(encoded(".tiff")[:-40], Undecodable, id="truncated TIFF"),
        pytest.param(png_of(20_000, 10_000), TooLarge, id="200 megapixels"),
        pytest.param(png_of(10_000, 6_000), TooLarge, id="60 megapixels"),
        pytest.param(png_of(100, 100), Undecodable, id="PNG header alone"),
    ],
)
def test_each_kind_of_bad_data_gets_its_own_error(data: bytes, error: type[ServeAppError]) -> None:
    with pytest.raises(error) as caught:
        decode(data, MAX_PIXELS)
    assert type(caught.value) is error
    assert caught.value.limit == ("limits.max_megapixels" if error is TooLarge else "")


DECODE_FROM_STDIN = """
import resource, sys
from serve_app.images.decode import decode
from serve_app.errors import ServeAppError
try:
    print(decode(sys.stdin.buffer.read(), 50_000_000).shape)
except ServeAppError as exc:
    print(exc.code)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB")
"""


def decode_in_subprocess(data: bytes) -> tuple[str, int]:
    """Decode the bytes in a new process. Return the result, and the peak memory of the process in MiB."""
    command = [sys.executable, "-c", DECODE_FROM_STDIN]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, f"exit status {done.returncode}"
    result, peak = done.stdout.decode().splitlines()
    return result, int(peak.split()[0])


def test_a_damaged_animation_does_not_crash_the_process() -> None:
    result, _ = decode_in_subprocess(CRASHING_PNG)
    assert result == "(40, 64, 3)"  # only the animation is damaged, not the still image


def test_a_png_chunk_that_claims_a_gibibyte_is_not_allocated() -> None:
    whole = encoded(".png")
    _, usual_mib = decode_in_subprocess(whole)
    length = whole.index(b"IDAT") - 4
    claims_a_gibibyte = whole[:length] + struct.pack(">I", 2**30) + whole[length + 4 :]
    result, peak_mib = decode_in_subprocess(claims_a_gibibyte)
    assert result == "undecodable"
    assert peak_mib < usual_mib + 50


def test_a_jpeg_with_a_thousand_scans_is_refused() -> None:
    whole = saved(rgb(), "JPEG", progressive=True)
    last_scan = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(Undecodable, match="scans"):
        decode(whole[:-2] + 1000 * last_scan + whole[-2:], MAX_PIXELS)


SMALL_PICTURES = """
import random
from scripts.trials import damage
rng, images = random.Random(0), list(damage.pictures().values())
"""


def test_a_damaged_picture_is_decoded_or_refused_without_a_crash() -> None:
    done = decode_damaged(SMALL_PICTURES)
    assert done.returncode == 0, done.stderr.decode()[-500:]


DECODE_BOMBS = """
import resource
from scripts.trials.bombs import BOMBS
from serve_app.images.decode import decode
from serve_app.errors import ServeAppError
resource.setrlimit(resource.RLIMIT_CPU, (40, 40))  # they take 5 s, most of it for making the files
for name, make in BOMBS.items():
    data = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        result = "read" if decode(data, 50_000_000) is not None else ""
    except ServeAppError as exc:
        result = exc.code
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(name, result, grown_mib, sep=":")
"""


def test_a_decompression_bomb_costs_no_more_than_a_large_picture() -> None:
    """Without our limits, these files take minutes and gigabytes of memory, and the decoders write 200 MB to stderr."""
    done = subprocess.run([sys.executable, "-c", DECODE_BOMBS], capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    results = [line.split(":") for line in done.stdout.decode().splitlines()]
    assert [name for name, _, _ in results] == list(BOMBS)
    assert {result for name, result, _ in results if "claims" in name} == {"too_large"}
    assert [name for name, _, grown_mib in results if int(grown_mib) > 300] == []
    assert len(done.stderr) < 10_000


@pytest.mark.parametrize("kind", pictures())
def test_every_kind_of_picture_decodes_to_the_same_pixels_as_with_opencv_alone(kind: str) -> None:
    """We remove chunks and tags from a file before OpenCV decodes it. This does not change the pixels."""
    whole = pictures()[kind]
    read = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
    if read is None:
        with pytest.raises(Undecodable):
            decode(whole, MAX_PIXELS)
    else:
        assert np.array_equal(decode(whole, MAX_PIXELS), read)


def test_a_large_png_with_more_pixels_than_its_header_says_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in noise)
    packer = zlib.compressobj(1)
    pixels = packer.compress(rows)
    sound = png(500, 500, png_chunk(b"IDAT", pixels + packer.copy().flush()))
    assert np.array_equal(decode(sound, MAX_PIXELS), noise[:, :, ::-1])
    more = png(500, 500, png_chunk(b"IDAT", pixels + packer.compress(bytes(2**24)) + packer.flush()))
    with pytest.raises(Undecodable, match="more pixels"):
        decode(more, MAX_PIXELS)


def test_the_tiles_of_a_tiff_may_extend_beyond_its_edge() -> None:
    tile, start = zlib.compress(bytes(range(256)) * 3 * 256), after(11)
    layout = {256: 100, 257: 60, 258: 8, 259: 8, 262: 2, 277: 3, 284: 1, 322: 256, 323: 256, 324: start, 325: len(tile)}
    assert decode(tiff({tag: (4, 1, value) for tag, value in layout.items()}, tile), MAX_PIXELS).shape == (60, 100, 3)

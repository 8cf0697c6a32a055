from __future__ import annotations

import itertools

import pytest

from scripts.trials.field.videos.clips import jpeg, several
from serve_app.video import jpegs
from serve_app.video.jpegs import EndlessJpeg, JpegTooLarge, is_mjpeg, split_jpegs

SHOTS = [jpeg(width, 64, shade) for width, shade in ((64, None), (48, 0), (80, 200), (64, 90))]


def split(data: bytes, piece_bytes: int, max_pixels: int = 10_000) -> list[bytes]:
    """Split data into its JPEGs. The data arrives in pieces of ``piece_bytes``."""
    pieces = (data[at : at + piece_bytes] for at in itertools.count(0, piece_bytes))
    return list(split_jpegs(lambda: next(pieces), max_pixels))


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000, 1_000_000])
@pytest.mark.parametrize("between", [b"", bytes(9), b"\r\n--x\r\n\r\n", b"\xff\xd8 \xff\xd9"])
def test_jpegs_are_split_alike_for_any_size_of_read(between: bytes, piece_bytes: int) -> None:
    assert split(between.join(SHOTS), piece_bytes) == SHOTS


def test_data_within_a_parts_content_length_belongs_to_its_jpeg() -> None:
    both = SHOTS[0] + SHOTS[1]  # like a camera with two lenses
    part = b"--x\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(both), both)
    assert split(3 * part, 100) == 3 * [both]


@pytest.mark.parametrize("piece_bytes", [1, 100, 1_000_000])
@pytest.mark.parametrize("between", [b"", bytes(9), b"\r\n--x\r\n\r\n"])
def test_a_multi_picture_file_is_one_picture(between: bytes, piece_bytes: int) -> None:
    shots = [several(50, 200), several(60, 210, 90), SHOTS[0]]
    assert split(between.join(shots), piece_bytes) == shots


def test_a_picture_whose_index_names_missing_images_is_still_one() -> None:
    alone = several(50, 200)[: several(50, 200).index(b"\xff\xd9") + 2]
    assert split(alone + bytes(9) + SHOTS[0], 100) == [alone, SHOTS[0]]


@pytest.mark.parametrize("index", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(90)])
def test_an_invalid_multi_picture_index_is_ignored(index: bytes) -> None:
    segment = b"MPF\0" + index
    shot = SHOTS[0][:2] + b"\xff\xe2" + (2 + len(segment)).to_bytes(2, "big") + segment + SHOTS[0][2:]
    assert split(2 * shot, 100) == 2 * [shot]


def test_only_a_sequence_of_jpegs_of_one_size_is_a_video() -> None:
    assert is_mjpeg(SHOTS[0] + 2 * SHOTS[3])
    pictures = (
        SHOTS[0],
        SHOTS[0] + SHOTS[3],
        SHOTS[0] + SHOTS[1],
        several(50, 200),
        SHOTS[0] + b"\0\0\0\x18ftypmp42" + bytes(99),
        b"\xff\xd8\xff",
    )
    assert not any(map(is_mjpeg, pictures))


def test_a_truncated_jpeg_affects_no_other() -> None:
    assert split(SHOTS[0][:200] + SHOTS[1] + SHOTS[2], 100) == SHOTS[1:3]  # the first JPEG is truncated in its header
    first, *rest = split(SHOTS[0][:-20] + SHOTS[1] + SHOTS[2], 100)  # truncated in the scan
    assert (first, rest) == (SHOTS[0][:-20], SHOTS[1:3])
    assert split(SHOTS[0] + SHOTS[1][:-10], 100) == SHOTS[:1]


def test_a_camera_may_omit_the_end_marker() -> None:
    shots = [shot[:-2] for shot in SHOTS]
    assert split(b"".join(shots), 100) == shots[:-1]


def test_an_embedded_thumbnail_is_not_a_picture() -> None:
    thumbnail = b"\xff\xe1" + (2 + len(SHOTS[1])).to_bytes(2, "big") + SHOTS[1]
    shot = SHOTS[0][:2] + thumbnail + SHOTS[0][2:]
    assert split(2 * shot, 100) == 2 * [shot]


def test_a_jpeg_with_too_many_pixels_is_refused_before_it_is_complete() -> None:
    with pytest.raises(JpegTooLarge):
        split(SHOTS[0] + jpeg(128, 128)[:700], 100)


def test_a_jpeg_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpegs, "MAX_PICTURE_BYTES", 10_000)
    endless = itertools.chain([SHOTS[0][:-2]], itertools.repeat(bytes(1000)))
    with pytest.raises(EndlessJpeg):
        list(split_jpegs(lambda: next(endless)))

"""Hardware decoding, as far as it can be tested on machines without the hardware."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel, hwdevices_available

from scripts.trials.field.videos import clips
from serve_app.types import Pixels
from serve_app.video import hardware
from serve_app.video.decoding import Decoding
from serve_app.video.ffmpeg import Input, decode_pictures
from serve_app.video.hardware import SeparateDecoder, find_decoder, note_frame
from serve_app.video.source import parse_source
from serve_app.video.video import open_video
from tests.support.videos import frame_shown, save_coded_video, save_video

MAX_PIXELS = 1_000_000
KINDS = ["cuda", "vaapi", "qsv", "drm", "amf"]


@pytest.fixture
def h264(tmp_path: Path) -> Path:
    return save_coded_video(tmp_path / "a.mp4", frames=5, keys=(0,))


@pytest.fixture(autouse=True)
def _nothing_logged() -> Iterator[None]:
    hardware._log_once.cache_clear()
    yield
    hardware._log_once.cache_clear()


def read(path: Path, decoding: Decoding) -> list[int]:
    with open_video(parse_source(str(path), (path.parent,)), max_pixels=MAX_PIXELS, decoding=decoding) as video:
        return [frame_shown(pixels()) for pixels, _ in video]


@pytest.mark.parametrize("kind", KINDS)
def test_every_hardware_decoder_or_its_software_fallback_returns_the_same_frames(h264: Path, kind: str) -> None:
    assert read(h264, Decoding(kind)) == list(range(5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_that_is_decoded_in_software_says_why_in_its_state_and_once_in_the_log(
    h264: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    decoding = Decoding(kind)
    with caplog.at_level(logging.WARNING, "serve_app"):
        for _ in range(2):
            read(h264, decoding)
    if decoding.hardware:
        pytest.skip(f"this machine has {kind} hardware, which decoded the video")
    assert decoding.detail.startswith("streams.hwaccel: ")
    assert kind in decoding.detail
    assert [record.getMessage() for record in caplog.records] == [
        f"{decoding.detail}; the video is decoded in software"
    ]


@pytest.mark.parametrize(("kind", "library"), [("cuda", "libcuda.so.1"), ("amf", "libamfrt64.so.1")])
def test_the_reason_names_the_library_that_is_missing(h264: Path, kind: str, library: str) -> None:
    decoding = Decoding(kind)
    read(h264, decoding)
    if decoding.hardware or (library not in decoding.detail and kind not in hwdevices_available()):
        pytest.skip(f"this machine has {kind} hardware, or PyAV does not support it")
    assert decoding.detail.startswith(f"streams.hwaccel: the {kind} hardware cannot be opened: ")
    assert library in decoding.detail


def test_hardware_that_this_pyav_does_not_know_is_named_with_those_that_it_knows(h264: Path) -> None:
    decoding = Decoding("videotoolbox")  # exists only on macOS
    assert read(h264, decoding) == list(range(5))
    known = ", ".join(hwdevices_available())
    assert decoding.detail == (
        f"streams.hwaccel: this PyAV has no videotoolbox, only {known}; install a PyAV that has it"
    )


def test_without_a_hardware_decoder_for_the_codec_the_reason_names_the_codec(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.avi", frames=1, fps=50)
    decoding = Decoding("cuda")
    with av.open(str(path)) as container:
        assert find_decoder(container.streams.video[0], HWAccel("cuda"), decoding) is None
    assert decoding.detail == "streams.hwaccel: this PyAV has no cuda decoder for ffv1"


def test_a_video_that_the_hardware_silently_refuses_has_a_reason(h264: Path) -> None:
    decoding = Decoding("cuda")
    with av.open(str(h264)) as container:
        next(container.decode(video=0))
        note_frame(container.streams.video[0].codec_context, decoding)
    assert (decoding.hardware, decoding.detail) == (
        None,
        "streams.hwaccel: the cuda hardware does not decode this kind of h264",
    )


def test_a_reopened_video_may_be_decoded_by_hardware_again(h264: Path) -> None:
    decoding = Decoding("cuda", detail="streams.hwaccel: a reason that is no longer true", hardware="cuda")
    decoding.opened()
    assert (decoding.frames, decoding.hardware, decoding.detail) == ("all", None, "")


def decoded(path: Path, separate_name: str | None) -> list[Pixels]:
    source = parse_source(str(path), (path.parent,))
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        separate = SeparateDecoder(separate_name, stream, None) if separate_name else None
        pictures = decode_pictures(source, Input("", {}), container, stream, MAX_PIXELS, Decoding(), separate)
        return [pixels() for pixels, _ in pictures]


def test_a_decoder_of_its_own_returns_the_frames_of_the_usual_one(tmp_path: Path) -> None:
    """A second software decoder takes the place of a hardware decoder such as ``h264_qsv``."""
    path = save_coded_video(tmp_path / "a.mp4", frames=30, keys=(0, 10, 20), options={"bf": "2"})
    usual, own = decoded(path, None), decoded(path, "h264")
    assert [frame_shown(pixels) for pixels in own] == list(range(30))
    assert all(np.array_equal(pixels, others) for pixels, others in zip(own, usual, strict=True))


def test_a_decoder_of_its_own_shows_a_rotated_video_upright(tmp_path: Path) -> None:
    matrix, shown = clips.ORIENTATIONS["rotated to the right"]
    path = clips.save(tmp_path / "a.mp4")
    path.write_bytes(clips.with_matrix(path.read_bytes(), matrix))
    assert {clips.corners(pixels) for pixels in decoded(path, "h264")} == {shown}

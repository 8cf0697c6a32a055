"""The selection of packets, with packets as cameras send them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from serve_app.video.decoding import Decoding
from serve_app.video.pictures import Undecoded
from serve_app.video.selection import SelectiveDecoder
from tests.support.videos import frame_shown, save_coded_video

FRAMES = 200


@pytest.fixture(scope="module", params=["0", "2"], ids=["no B-frames", "B-frames"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video with a key frame each second."""
    path = tmp_path_factory.mktemp("videos") / "a.mp4"
    return save_coded_video(path, frames=FRAMES, keys=range(0, FRAMES, 25), options={"bf": request.param})


def frames_of(path: Path, change: Callable[[int, Any], None], decoding: Decoding) -> list[int | None]:
    """Decode a video whose packets are changed by ``change``, which gets a packet and its number.

    Return the numbers of the frames that can be decoded, in the order of presentation, and None for the others.
    """
    shown: list[int | None] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None

        def to_pixels(frame: Any) -> Callable[[], Any]:
            return lambda: frame.to_ndarray(format="bgr24")

        decoder = SelectiveDecoder(stream.codec_context, stream.time_base, decoding, decoding.max_fps, to_pixels)
        for number, packet in enumerate(container.demux(stream)):
            change(number, packet)
            for found, _ in decoder.pictures(packet):
                pixels = found.decode() if isinstance(found, Undecoded) else found
                shown.append(None if pixels is None else frame_shown(pixels()))
    return shown


def unchanged(_number: int, _packet: Any) -> None:
    return


def test_every_frame_has_its_place_whether_it_is_decoded_or_not(video: Path) -> None:
    decoding = Decoding(max_fps=1)
    shown = frames_of(video, unchanged, decoding)
    assert len(shown) == FRAMES
    assert all(found in {None, number} for number, found in enumerate(shown))
    assert [number for number, found in enumerate(shown) if found is not None][-6:] == [50, 75, 100, 125, 150, 175]
    assert decoding.frames == "key_frames"


def test_first_packets_without_timestamps_as_rtsp_cameras_send_them_only_delay_the_selection(video: Path) -> None:
    def change(number: int, packet: Any) -> None:
        if number < 3:
            packet.pts = packet.dts = None

    decoding = Decoding(max_fps=1)
    shown = frames_of(video, change, decoding)
    assert len(shown) == FRAMES
    assert shown[100:] == [number if number % 25 == 0 else None for number in range(100, FRAMES)]
    assert decoding.frames == "key_frames"


def test_a_missing_timestamp_later_on_loses_no_frame(video: Path) -> None:
    def change(number: int, packet: Any) -> None:
        if number == 110:
            packet.pts = packet.dts = None

    shown = frames_of(video, change, Decoding(max_fps=1))
    assert len(shown) == FRAMES
    assert [found for found in shown if found is not None and found % 25 == 0] == list(range(0, FRAMES, 25))
    assert {112, 113, 114, 115} <= set(shown)  # the decoder knows the frames before, so it continues at once


@pytest.mark.parametrize("jump_s", [-1000, 1000])
def test_a_camera_whose_clock_is_set_loses_no_frame(video: Path, jump_s: int) -> None:
    def change(number: int, packet: Any) -> None:
        if number >= 100 and packet.size:
            packet.pts += int(jump_s / packet.time_base)
            packet.dts += int(jump_s / packet.time_base)

    decoding = Decoding(max_fps=1)
    shown = frames_of(video, change, decoding)
    assert len(shown) == FRAMES
    assert [found for found in shown if found is not None and found % 25 == 0] == list(range(0, FRAMES, 25))
    assert decoding.frames == "key_frames"


def test_after_a_key_frame_that_cannot_be_decoded_more_than_the_key_frames_are_decoded(video: Path) -> None:
    def change(number: int, packet: Any) -> None:
        if number == 100:
            packet.update(bytes(packet.size))

    decoding = Decoding(max_fps=1)
    shown = frames_of(video, change, decoding)
    found = [number for number in shown[-75:] if number is not None]
    assert all(shown[number - FRAMES] == number for number in found)
    assert len(found) > 30
    assert decoding.frames != "key_frames"

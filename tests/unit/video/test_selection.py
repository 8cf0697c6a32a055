"""The selection of packets, with packets as cameras send them."""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import av
import pytest

from serve_app.video.decoding import Decoding
from serve_app.video.pictures import NotYetDecoded, Skipped
from serve_app.video.selection import SelectiveDecoder
from serve_app.video.source import parse_source
from serve_app.video.video import open_video
from tests.support.fields import save_fields
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
                pixels = found.decode() if isinstance(found, NotYetDecoded) else found
                shown.append(None if pixels is None or isinstance(pixels, Skipped) else frame_shown(pixels()))
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


def test_key_frames_are_used_again_a_while_after_one_that_cannot_be_decoded(tmp_path: Path) -> None:
    def change(number: int, packet: Any) -> None:
        if number == 100:
            packet.update(bytes(packet.size))

    path = save_coded_video(tmp_path / "a.mp4", frames=350, keys=range(0, 350, 25))
    decoding = Decoding(max_fps=1)
    shown = frames_of(path, change, decoding)
    assert shown[-100:] == [number if number % 25 == 0 else None for number in range(250, 350)]
    assert decoding.frames == "key_frames"


@pytest.mark.parametrize("step_s", [-1000, -1.5, -0.08, 3, 1000])
@pytest.mark.parametrize("at", [101, 110])
def test_a_camera_whose_clock_is_set_between_key_frames_is_measured_again(video: Path, at: int, step_s: float) -> None:
    def change(number: int, packet: Any) -> None:
        if number >= at and packet.size:
            packet.pts += round(step_s / packet.time_base)
            packet.dts += round(step_s / packet.time_base)

    decoding = Decoding(max_fps=1)
    shown = frames_of(video, change, decoding)
    assert len(shown) == FRAMES
    assert sum(number is not None for number in shown[at + 1 : 125]) > 4  # decoding continues before the next key frame
    assert shown[176:] == [None] * (FRAMES - 176)
    assert decoding.frames == "key_frames"


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("late", [2, 7])
def test_frames_that_the_decoder_still_has_at_a_key_frame_are_returned_once(
    tmp_path: Path, codec: str, late: int
) -> None:
    keys = (0, 25, 50, 75, 100 + late, 125 + late)
    options = {"bf": "3", "x264-params": "b-pyramid=normal"} if codec == "libx264" else {}
    path = save_coded_video(tmp_path / "a.mp4", codec=codec, frames=150, keys=keys, options=options)
    shown = frames_of(path, unchanged, Decoding(max_fps=1))
    assert len(shown) == 150
    assert all(found in {None, number} for number, found in enumerate(shown))


@pytest.mark.parametrize("max_fps", [1, 2, 5])
@pytest.mark.parametrize("keys", [(0, 375), range(0, 400, 20)], ids=["rare key frames", "frequent key frames"])
def test_frames_outside_an_edit_list_are_not_counted(tmp_path: Path, max_fps: float, keys: Container[int]) -> None:
    options = {"bf": "3", "x264-params": "b-pyramid=normal"}
    path = save_coded_video(tmp_path / "a.mp4", frames=400, keys=keys, options=options)
    with av.open(str(path)) as whole, av.open(str(tmp_path / "b.mp4"), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                start = int(5 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
                cut.mux(packet)
    shown = frames_of(tmp_path / "b.mp4", unchanged, Decoding(max_fps=max_fps))
    assert len(shown) == 400 - 125
    assert all(found in {None, number} for number, found in enumerate(shown, 125))


def test_frames_that_are_decoded_only_after_a_recovery_are_counted(tmp_path: Path) -> None:
    """With intra refresh, H.264 marks frames as key frames that are complete only many frames later."""
    options = {"g": "25", "x264-params": "intra-refresh=1:keyint=25"}
    path = save_coded_video(tmp_path / "a.mkv", frames=400, keys=(0,), options=options)
    shown = frames_of(path, unchanged, Decoding(max_fps=1))
    assert len(shown) == 400
    assert len([number for number in shown if number is not None]) > 300


@pytest.mark.parametrize("max_fps", [None, 1, 5])
def test_the_two_fields_of_a_frame_are_not_counted_as_two_frames(tmp_path: Path, max_fps: float | None) -> None:
    source = parse_source(str(save_fields(tmp_path / "a.ts", frames=250, group=25)), (tmp_path,))
    decoding = Decoding(max_fps=max_fps)
    with open_video(source, max_pixels=10_000, decoding=decoding) as video:
        assert len(list(video)) == 250
    assert decoding.frames == "all"

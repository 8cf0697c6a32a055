"""Captures with a ``max_fps``, which decode only some of the frames.

The same frames are taken as if all frames were decoded, or later ones, and no counter differs.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Container
from pathlib import Path
from typing import Any

import av
import pytest

from scripts.trials.field.videos.servers import sends, serving
from serve_app.streams.bookmark import Bookmark
from serve_app.streams.progress import Progress
from serve_app.types import Frame, Pixels
from serve_app.video import ffmpeg
from serve_app.video.orientation import upright
from serve_app.video.selection import SelectiveDecoder
from tests.support.videos import frame_shown, save_coded_video
from tests.unit.streams.capture.test_capture import all_of, capture_of, next_of

pytestmark = pytest.mark.anyio
FPS = 25
B_FRAMES = {"bf": "3", "x264-params": "b-pyramid=normal"}
OPEN_GROUPS = {"x265-params": "keyint=25:min-keyint=25:bframes=3:scenecut=0:open-gop=1:log-level=none"}


class Counted:
    """A decoder that counts the packets that it gets."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec
        self.packets = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {"_codec", "packets"}:
            super().__setattr__(name, value)
        else:
            setattr(self._codec, name, value)

    def decode(self, packet: Any) -> Any:
        self.packets += packet is not None and packet.size > 0
        return self._codec.decode(packet)


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """Return the decoders of all videos that the test opens."""
    found: list[Counted] = []

    def counted(codec: Any, *args: Any) -> SelectiveDecoder:
        found.append(Counted(codec))
        return SelectiveDecoder(found[-1], *args)

    monkeypatch.setattr(ffmpeg, "SelectiveDecoder", counted)
    return found


async def taken_from(path: Path, max_fps: float | None, **changes: Any) -> tuple[list[Frame], Progress]:
    """Take all frames of a video, and check that each is the frame that its id says."""
    async with capture_of(path, max_fps=max_fps, **changes) as (capture, progress):
        frames = await all_of(capture)
    check(frames)
    assert progress.captured == len(frames) + progress.dropped.total()
    return frames, progress


def check(frames: list[Frame]) -> None:
    for frame in frames:
        assert frame.frame_id == frame.position.index == frame_shown(frame.pixels())


def due(frames: list[Frame], max_fps: float) -> list[int]:
    """Return the ids of the frames that a capture takes if all frames are decoded."""
    ids, due_s = [], 0.0
    for frame in frames:
        if frame.stream_time_s >= due_s - 1e-3:
            ids.append(frame.frame_id)
            due_s += max(1, math.floor((frame.stream_time_s - due_s) * max_fps + 1e-6) + 1) / max_fps
    return ids


def ids_of(frames: list[Frame]) -> list[int]:
    return [frame.frame_id for frame in frames]


every_second = range(0, 10_000, FPS)


@pytest.mark.parametrize(
    "container", ["mp4", "ts", *(pytest.param(name, marks=pytest.mark.only_with_chaos) for name in ("mkv", "flv"))]
)
@pytest.mark.parametrize("options", [{}, B_FRAMES], ids=["no B-frames", "B-frames"])
async def test_key_frames_alone_are_decoded_if_they_come_often_enough(
    tmp_path: Path, container: str, options: dict[str, str], decoders: list[Counted]
) -> None:
    path = save_coded_video(tmp_path / f"a.{container}", frames=150, keys=every_second, options=options)
    every, _ = await taken_from(path, None)
    frames, progress = await taken_from(path, 1)
    assert ids_of(frames) == due(every, 1) == [0, 25, 50, 75, 100, 125]
    alike = [frame for frame in every if frame.frame_id in every_second]
    assert [frame.position for frame in frames] == [frame.position for frame in alike]
    assert [frame.stream_time_s for frame in frames] == pytest.approx([frame.stream_time_s for frame in alike])
    assert (progress.captured, progress.dropped, progress.decoding.frames) == (150, {"max_fps": 144}, "key_frames")
    assert [decoder.packets for decoder in decoders] == [150, 50 + 4]  # the first two intervals are measured


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
async def test_key_frames_that_other_frames_precede_in_time_keep_their_places(tmp_path: Path, container: str) -> None:
    path = save_coded_video(tmp_path / f"a.{container}", codec="libx265", frames=150, keys=(), options=OPEN_GROUPS)
    every, _ = await taken_from(path, None)
    frames, progress = await taken_from(path, 1)
    assert ids_of(frames) == due(every, 1)
    assert (progress.captured, progress.decoding.frames) == (150, "key_frames")


async def test_only_the_key_frames_that_are_taken_are_decoded(tmp_path: Path, decoders: list[Counted]) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=150, keys=range(150))
    frames, progress = await taken_from(path, 5)
    assert ids_of(frames) == list(range(0, 150, 5))
    assert progress.decoding.frames == "key_frames"
    assert decoders[0].packets <= 32


@pytest.mark.parametrize("jitter_s", [0.002, 0.005, 0.018])
async def test_key_frames_that_come_a_little_early_are_taken(tmp_path: Path, jitter_s: float) -> None:
    regular = save_coded_video(tmp_path / "a.mp4", frames=500, keys=every_second)
    jitter = random.Random(1)
    with av.open(str(regular)) as video, av.open(str(tmp_path / "b.mkv"), "w") as irregular:
        stream = irregular.add_stream_from_template(video.streams.video[0])
        for number, packet in enumerate(packet for packet in video.demux(video=0) if packet.size):
            packet.pts = packet.dts = int(
                (0.1 + 0.04 * number + jitter.uniform(-jitter_s, jitter_s)) / packet.time_base
            )
            packet.stream = stream
            irregular.mux(packet)
    frames, _ = await taken_from(tmp_path / "b.mkv", 1)
    assert len(frames) == 20
    times_s = [frame.stream_time_s for frame in frames]
    assert max(after - before for before, after in itertools.pairwise(times_s)) < 1.1


@pytest.mark.parametrize(("interval", "max_fps"), [(20, 1), (13, 1), (19, 1), (6, 2), (5, 3)])
async def test_early_key_frames_do_not_raise_the_rate_above_max_fps(
    tmp_path: Path, interval: int, max_fps: float
) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=1000, keys=range(0, 1000, interval))
    frames, progress = await taken_from(path, max_fps)
    assert progress.decoding.frames == "key_frames"
    assert 0.95 * 40 * max_fps - 1 <= len(frames) <= 40 * max_fps + 1
    times_s = [frame.stream_time_s for frame in frames]
    assert all(later - times_s[0] >= (number - 0.25) / max_fps for number, later in enumerate(times_s))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("max_fps", [1, 2, 5])
async def test_reference_frames_are_decoded_if_key_frames_are_rare(tmp_path: Path, codec: str, max_fps: float) -> None:
    options = B_FRAMES if codec == "libx264" else {}
    path = save_coded_video(tmp_path / "a.mp4", codec=codec, frames=150, keys=(0,), options=options)
    every, _ = await taken_from(path, None)
    frames, progress = await taken_from(path, max_fps)
    wanted = due(every, max_fps)
    assert len(frames) == len(wanted)
    assert all(0 <= found - want <= 2 for found, want in zip(ids_of(frames), wanted, strict=True))
    assert (progress.captured, progress.decoding.frames) == (150, "reference_frames")


@pytest.mark.parametrize(("keys", "max_fps"), [(every_second, None), ((0,), 10), ((0,), 25), ((0,), 40)])
async def test_all_frames_are_decoded_if_most_of_them_are_taken(
    tmp_path: Path, keys: Container[int], max_fps: float | None, decoders: list[Counted]
) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=100, keys=keys, options=B_FRAMES)
    every, _ = await taken_from(path, None)
    frames, progress = await taken_from(path, max_fps)
    assert ids_of(frames) == due(every, max_fps or 1000)
    assert progress.decoding.frames == "all"
    assert decoders[1].packets == 100


async def test_all_frames_are_decoded_if_none_is_a_reference_frame_that_could_be_skipped(tmp_path: Path) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=100, keys=(0,))
    frames, progress = await taken_from(path, 1)
    assert ids_of(frames) == [0, 25, 50, 75]
    assert progress.decoding.frames == "all"


async def test_no_frame_is_lost_when_key_frames_become_rare(tmp_path: Path) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=250, keys=(0, 25, 50, 75, 100, 240), options=B_FRAMES)
    frames, progress = await taken_from(path, 1)
    found = ids_of(frames)
    assert found[:5] == [0, 25, 50, 75, 100]
    assert len(found) == 10
    assert all(0 <= number - want <= 2 for number, want in zip(found, range(0, 250, 25), strict=True))
    assert (progress.captured, progress.decoding.frames) == (250, "reference_frames")


async def test_key_frames_alone_are_decoded_once_they_have_become_frequent(tmp_path: Path) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=250, keys=(0, 125, 150, 175, 200, 225))
    frames, progress = await taken_from(path, 1)
    assert ids_of(frames) == list(range(0, 250, 25))
    assert progress.decoding.frames == "key_frames"


async def test_a_damaged_key_frame_does_not_stop_the_frames_after_it(tmp_path: Path) -> None:
    path = save_coded_video(tmp_path / "a.ts", frames=200, keys=every_second)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe and packet.pos is not None]
    data = bytearray(path.read_bytes())
    for place in range(places[4], places[4] + 20 * 188, 188):
        data[place + 1] |= 0x80  # the sync byte is followed by the bit that marks a packet as damaged
        data[place + 4 : place + 188] = bytes(184)
    path.write_bytes(data)
    async with capture_of(path, max_fps=1) as (capture, _):
        found = [frame_shown(frame.pixels()) for frame in await all_of(capture)]
    assert found[:4] == [0, 25, 50, 75]
    assert found[-2:] == [150, 175]


async def test_wrong_timestamps_are_not_used_to_skip_frames(tmp_path: Path) -> None:
    """AVI has no presentation timestamps, so B-frames get those of other frames."""
    path = save_coded_video(tmp_path / "a.avi", frames=150, keys=every_second, options=B_FRAMES)
    every, _ = await taken_from(path, None)
    frames, progress = await taken_from(path, 1)
    assert ids_of(frames) == due(every, 1)
    assert (progress.captured, progress.decoding.frames) == (150, "all")


async def test_an_interrupted_stream_continues_with_the_next_frame_and_then_with_key_frames(tmp_path: Path) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=250, keys=every_second)
    async with capture_of(path, max_fps=1) as (capture, _):
        last = [await next_of(capture) for _ in range(5)][-1]
    bookmark = Bookmark(next_frame_id=last.frame_id + 1)
    continued = capture_of(path, bookmark, max_fps=1, after=last.position, stream_time_s=last.stream_time_s)
    async with continued as (capture, _):
        rest = await all_of(capture)
    check([last, *rest])
    # The times at which frames are due count from frame 101. From frame 151 on, only key frames are decoded.
    assert ids_of(rest) == [101, 126, 175, 200, 225]


async def test_a_loop_begins_with_the_first_frame_again(tmp_path: Path) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=100, keys=every_second, options=B_FRAMES)
    async with capture_of(path, max_fps=1, loop=True) as (capture, _):
        frames = [await next_of(capture) for _ in range(9)]
    assert ids_of(frames) == list(range(0, 225, 25))
    assert [frame_shown(frame.pixels()) for frame in frames] == [0, 25, 50, 75] * 2 + [0]


async def test_a_reopened_live_source_begins_with_its_first_frame(tmp_path: Path) -> None:
    path = save_coded_video(tmp_path / "a.ts", frames=100, keys=every_second)
    video = sends(path.read_bytes(), has_length=False, Content_Type="video/mp2t")
    with serving({"/cam": video}) as server:
        async with capture_of(f"{server.url}/cam", max_fps=1) as (capture, progress):
            frames = [await next_of(capture) for _ in range(8)]
            assert progress.reconnects >= 1
    assert [frame_shown(frame.pixels()) for frame in frames] == [0, 25, 50, 75] * 2
    assert ids_of(frames) == list(range(0, 200, 25))


async def test_a_file_that_plays_in_real_time_counts_the_frames_that_are_not_decoded(tmp_path: Path) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=200, fps=400, keys=range(0, 200, 20), options=B_FRAMES)
    frames, progress = await taken_from(path, 20, policy="drop_oldest")
    assert (progress.captured, progress.decoding.frames) == (200, "key_frames")
    assert progress.dropped.total() == 200 - len(frames)
    assert progress.dropped["max_fps"] == 190


async def test_a_frame_is_converted_only_when_its_pixels_are_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_coded_video(tmp_path / "a.mp4", frames=50, keys=(0,))
    converted: list[Pixels] = []

    def counted(pixels: Pixels, matrix: bytes | None) -> Pixels:
        converted.append(pixels)
        return upright(pixels, matrix)

    monkeypatch.setattr(ffmpeg, "upright", counted)
    async with capture_of(path, max_fps=5) as (capture, _):
        frames = await all_of(capture)
    assert (len(frames), len(converted)) == (10, 0)
    frames[-1].pixels()
    assert len(converted) == 1

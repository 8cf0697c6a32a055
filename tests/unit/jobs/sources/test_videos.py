"""A video that is read clip by clip has the same frames as one that is decoded from its beginning to its end."""

from __future__ import annotations

import io
import math
import os
import random
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from serve_app.config import AppArgs
from serve_app.errors import SourceError, TooLarge, Undecodable
from serve_app.jobs.sources import ChangedItem, UnreadableItem, videos
from serve_app.jobs.sources.stored_file import open_stored
from serve_app.jobs.units import CLIP_S, Clip, Item, NewUnit
from serve_app.video.source import parse_source
from serve_app.video.video import open_video
from tests.support.job_stores import NOW_S, created, opened
from tests.support.sources import clips, pages, source_of

pytestmark = pytest.mark.anyio

FPS = 10
FRAMES = 333  # 33.3 s, or 13.3 s of 25 frames each if the format has no times
BITS, SIDE_PX = 16, 16


def numbered(number: int) -> np.ndarray:
    """Return an image with the bits of a number as black and white squares."""
    bits = [number >> bit & 1 for bit in range(BITS)]
    small = np.array(bits, np.uint8).reshape(4, 4) * 255
    numbers: np.ndarray = cv2.cvtColor(np.kron(small, np.ones((SIDE_PX, SIDE_PX), np.uint8)), cv2.COLOR_GRAY2BGR)
    return numbers


def number_in(pixels: np.ndarray) -> int:
    """Return the number that an image shows."""
    centres = pixels[SIDE_PX // 2 :: SIDE_PX, SIDE_PX // 2 :: SIDE_PX, 0] > 128
    return sum(1 << bit for bit, is_set in enumerate(centres.flat) if is_set)


def save(
    path: Path,
    codec: str = "libx264",
    *,
    times_s: Sequence[float] | None = None,
    target: io.RawIOBase | None = None,
    format: str | None = None,
    container_options: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Write a video whose frames show their numbers. Its frames have these times, or come ``FPS`` times a second."""
    base = Fraction(1, 1000)
    is_timed = times_s is not None
    with av.open(target or str(path), "w", format=format, options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=options)
        stream.width = stream.height = 4 * SIDE_PX
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if is_timed:
            stream.codec_context.time_base = base
        for number, time_s in enumerate(times_s or [0.0] * FRAMES):
            frame = av.VideoFrame.from_ndarray(numbered(number), "bgr24")
            if is_timed:
                frame.pts, frame.time_base = round(time_s * 1000), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class Pipe(io.RawIOBase):
    """A file that cannot seek, so that a container is written without an index."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self.data += piece
        return len(piece)


def uneven() -> list[float]:
    chance = random.Random(3)
    times_s, now_s = [], 0.0
    for _ in range(FRAMES):
        times_s.append(round(now_s, 3))
        now_s += chance.choice([0.001, 0.033, 0.04, 0.25, 0.5])
    return times_s


def h264(path: Path, **options: Any) -> Path:
    usual: dict[str, Any] = {"crf": "10", "g": "37", "bf": "3"}  # three B-frames after each other
    return save(path, **(usual | options))


def without_index(path: Path) -> Path:
    pipe = Pipe()
    save(path, target=pipe, format="matroska", g="37", bf="3")
    path.write_bytes(pipe.data)
    return path


def fragmented(path: Path) -> Path:
    pipe = Pipe()
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    save(path, target=pipe, format="mp4", container_options=flags, g="37", bf="3")
    path.write_bytes(pipe.data)
    return path


def cut_off(path: Path) -> Path:
    h264(path)
    os.truncate(path, path.stat().st_size * 8 // 10)
    return path


def with_wrong_duration(factor: float) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        data = bytearray(h264(path).read_bytes())
        for box in (b"mvhd", b"mdhd"):
            at = data.index(box) + 4 + 16
            duration = int.from_bytes(data[at : at + 4], "big")
            data[at : at + 4] = int(duration * factor).to_bytes(4, "big")
        path.write_bytes(data)
        return path

    return make


OPEN_HEVC: dict[str, Any] = {"x265-params": "keyint=37:log-level=0"}
FAST: dict[str, Any] = {"cpu-used": "8"}
VIDEOS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "B-frames in MP4": ("a.mp4", h264),
    "B-frames in Matroska": ("a.mkv", h264),
    "a key frame at each border": ("a.mp4", lambda path: h264(path, g="50", sc_threshold="0")),
    "open groups of pictures": (
        "a.mp4",
        lambda path: h264(path, g="37", flags="+cgop", **{"x264-params": "open-gop=1"}),
    ),
    "one key frame": ("a.mp4", lambda path: h264(path, g="9999", sc_threshold="0")),
    "refreshed without key frames": ("a.mkv", lambda path: h264(path, bf="0", **{"intra-refresh": "1"})),
    "HEVC with open groups": ("a.mp4", lambda path: save(path, "libx265", **OPEN_HEVC)),
    "VP9 in WebM": ("a.webm", lambda path: save(path, "libvpx-vp9", g="37", deadline="realtime", **FAST)),
    "uneven times": ("a.mp4", lambda path: save(path, times_s=uneven(), g="37", bf="3")),
    "uneven times in Matroska": ("a.mkv", lambda path: save(path, times_s=uneven(), g="37", bf="3")),
    "times that begin late": ("a.mp4", lambda path: save(path, times_s=[7 + n / FPS for n in range(FRAMES)], bf="3")),
    "times that begin below zero": (
        "a.mkv",
        lambda path: save(
            path, times_s=[n / FPS - 5 for n in range(FRAMES)], container_options={"avoid_negative_ts": "disabled"}
        ),
    ),
    "long pauses": ("a.mp4", lambda path: save(path, times_s=[n * 11.0 + 400 * (n > 20) for n in range(60)], g="7")),
    "no index": ("a.mkv", without_index),
    "fragments without an index": ("a.mp4", fragmented),
    "the end missing": ("a.mkv", cut_off),
    "declared shorter than it is": ("a.mp4", with_wrong_duration(0.2)),
    "declared longer than it is": ("a.mp4", with_wrong_duration(50.0)),
    "MPEG-TS": ("a.ts", h264),
    "MPEG-TS with the end missing": ("a.ts", cut_off),
    "FLV": ("a.flv", h264),
    "AVI": ("a.avi", lambda path: save(path, "mpeg4", g="37", bf="2")),
    "H.264 in AVI, without times": ("a.avi", h264),
    "raw H.264, without times": ("a.h264", h264),
    "JPEGs, without times": ("a.mjpeg", lambda path: save(path, "mjpeg")),
}


# The selection of frames is tested with fewer kinds, because it takes long.
SELECTED = {
    "B-frames in MP4",
    "uneven times in Matroska",
    "long pauses",
    "MPEG-TS",
    "H.264 in AVI, without times",
    "VP9 in WebM",
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that encodes a video of one kind. It encodes each kind once, because encoding takes long."""

    @cache
    def encode(kind: str) -> Path:
        name, make = VIDEOS[kind]
        return make(tmp_path_factory.mktemp("encoded") / name)

    return encode


@pytest.fixture(params=VIDEOS)
def video(request: pytest.FixtureRequest, encoded: Callable[[str], Path], media: Path) -> Path:
    """Return a video of one kind."""
    return Path(shutil.copy(encoded(request.param), media))


@pytest.fixture(params=sorted(SELECTED))
def selected_video(request: pytest.FixtureRequest, encoded: Callable[[str], Path], media: Path) -> Path:
    """Return a video of one of the kinds with which selections are tested."""
    return Path(shutil.copy(encoded(request.param), media))


def decoded(path: Path) -> list[int]:
    """Return the numbers of all frames, decoded from the beginning to the end."""
    with open_video(parse_source(str(path), (path.parent,)), max_pixels=1_000_000) as video:
        return [number_in(pixels()) for pixels, _ in video]


async def read(args: AppArgs, path: Path, **spec: Any) -> list[tuple[float, int]]:
    """Return the times and numbers of all frames, read clip by clip by different processes in a random order."""
    listed = await clips(source_of(args, type="video", path=str(path), **spec))
    frames: dict[int, list[tuple[float, int]]] = {}
    for number in random.Random(5).sample(range(len(listed)), len(listed)):
        source = source_of(args, type="video", path=str(path), **spec)
        frames[number] = [(time_s, number_in(pixels)) for time_s, pixels in source.frames(listed[number])]
    return [frame for number in range(len(listed)) for frame in frames[number]]


async def test_no_frame_is_missing_and_none_is_read_twice(video: Path, args: AppArgs) -> None:
    listed = await clips(source_of(args, type="video", path=str(video)))
    assert len(listed) > 1
    assert (listed[0].start_s, listed[-1].end_s) == (0, math.inf)
    assert all(before.end_s == after.start_s for before, after in pairwise(listed))
    expected = decoded(video)
    frames = await read(args, video)
    assert [number for _, number in frames] == expected
    assert len(expected) > 45
    assert sum(clip.expected for clip in listed) == pytest.approx(len(expected), abs=2)
    for clip in listed:
        source = source_of(args, type="video", path=str(video))
        assert all(clip.start_s <= time_s < clip.end_s for time_s, _ in source.frames(clip))


@pytest.mark.parametrize("every_frames", [1, 7, 100])
async def test_every_nth_frame_is_the_same_as_without_clips(
    selected_video: Path, args: AppArgs, every_frames: int
) -> None:
    frames = await read(args, selected_video, every_frames=every_frames)
    assert [number for _, number in frames] == decoded(selected_video)[::every_frames]


@pytest.mark.parametrize(
    "every_s",
    [0.05, 1.0, 7.0, *(pytest.param(time_s, marks=pytest.mark.only_with_chaos) for time_s in (0.35, 3.0, 30.0))],
)
async def test_one_frame_in_each_interval_is_the_same_as_without_clips(
    selected_video: Path, args: AppArgs, every_s: float
) -> None:
    everything = await read(args, selected_video)
    first: dict[int, tuple[float, int]] = {}
    for frame in everything:
        first.setdefault(math.floor((frame[0] + 1e-6) / every_s), frame)
    assert await read(args, selected_video, every_s=every_s) == list(first.values())
    listed = await clips(source_of(args, type="video", path=str(selected_video), every_s=every_s))
    if selected_video.suffix != ".avi":  # where times are known only after decoding
        assert sum(clip.expected for clip in listed) == pytest.approx(len(first), abs=2)


async def test_the_times_are_those_of_the_video(media: Path, args: AppArgs) -> None:
    times_s = [7 + time_s for time_s in uneven()]
    path = save(media / "a.mp4", times_s=times_s, bf="3")
    assert [time_s for time_s, _ in await read(args, path)] == pytest.approx([one - 7 for one in times_s], abs=1e-3)


async def test_a_listing_continues_exactly_after_each_cursor(media: Path, args: AppArgs) -> None:
    source = source_of(args, type="video", path=str(save(media / "a.mp4", times_s=[n / 2 for n in range(400)])))
    listed = await pages(source)
    everything = [unit for page in listed for unit in page.units]
    assert len(everything) == 20
    done = 0
    for page in listed[:-1]:
        done += len(page.units)
        assert [unit for rest in await pages(source, page.cursor) for unit in rest.units] == everything[done:]


async def test_the_first_clips_are_listed_before_the_file_is_read_to_its_end(media: Path, args: AppArgs) -> None:
    path = save(media / "a.mp4")
    source = source_of(args, type="video", path=str(path))
    (first,) = (await anext(aiter(source.pages(None)))).units
    assert first.clip == Clip("a.mp4", 0.0, CLIP_S, 100, 0, str(path.stat().st_mtime_ns))


async def test_a_video_that_changed_is_not_read(media: Path, args: AppArgs) -> None:
    path = save(media / "a.mp4")
    source = source_of(args, type="video", path=str(path))
    listed = await clips(source)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ChangedItem):
        list(source.frames(listed[0]))


async def stored(path: Path, args: AppArgs, folder: Path, **spec: Any) -> list[Clip]:
    """Return the clips of a video as runners get them: from the store."""
    store = opened(folder)
    listed = await clips(source_of(args, type="video", path=str(path), **spec))
    created(store, *(NewUnit(clip=clip) for clip in listed))
    units = store.claim("night", 100, NOW_S)
    store.close()
    return [unit.clip for unit in units if unit.clip]


async def test_every_nth_frame_is_the_same_after_the_store(media: Path, args: AppArgs, tmp_path: Path) -> None:
    path = save(media / "a.mp4", times_s=[n / FPS for n in range(150)], g="37", bf="3")
    listed = await stored(path, args, tmp_path / "state", every_frames=7)
    assert len(listed) == 2
    source = source_of(args, type="video", path=str(path), every_frames=7)
    frames = [number_in(pixels) for clip in listed for _, pixels in source.frames(clip)]
    assert frames == decoded(path)[::7]


async def test_a_video_that_changed_is_not_read_after_the_store(media: Path, args: AppArgs, tmp_path: Path) -> None:
    path = save(media / "a.mp4", times_s=[n / FPS for n in range(20)])
    listed = await stored(path, args, tmp_path / "state")
    save(path, times_s=[n / FPS for n in range(30)])
    with pytest.raises(ChangedItem):
        list(source_of(args, type="video", path=str(path)).frames(listed[0]))


async def test_a_damaged_part_affects_only_its_own_frames(media: Path, args: AppArgs) -> None:
    path = h264(media / "a.mkv")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    numbers = [number for _, number in await read(args, path)]
    assert set(range(140)) | set(range(260, FRAMES)) <= set(numbers)
    assert len(numbers) == len(decoded(path)) < FRAMES


@pytest.mark.parametrize("content", [b"", b"no video", bytes(100_000), b"\x89PNG\r\n\x1a\n" + bytes(100)])
async def test_other_files_are_refused(media: Path, args: AppArgs, content: bytes) -> None:
    (media / "a.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.mp4 "):
        await pages(source_of(args, type="video", path=str(media / "a.mp4")))


async def test_a_video_that_became_unreadable_fails_as_its_clip(media: Path, args: AppArgs) -> None:
    (media / "a.mp4").write_bytes(b"no video")
    source = source_of(args, type="video", path=str(media / "a.mp4"))
    with pytest.raises(Undecodable, match=r"^a\.mp4 cannot be read as video"):
        list(source.frames(Clip("a.mp4", 0, math.inf, 1)))
    with pytest.raises(UnreadableItem):
        await source.read(Item("a.mp4"))


async def test_frames_that_are_too_large_are_refused(media: Path, args: AppArgs) -> None:
    path = save(media / "a.mp4")
    source = videos.VideoSource(open_stored(str(path), args), None, None, 1000)
    with pytest.raises(SourceError, match=r"limits\.max_megapixels"):
        await pages(source)
    with pytest.raises(TooLarge, match=r"limits\.max_megapixels") as caught:
        list(source.frames(Clip("a.mp4", 0, math.inf, 1)))
    assert caught.value.limit == "limits.max_megapixels"


async def test_a_clip_with_more_frames_than_it_has_numbers_is_refused(
    media: Path, args: AppArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "CLIP_ITEMS", 100)
    source = source_of(args, type="video", path=str(save(media / "a.mp4")))
    first, *_, last = await clips(source)
    assert len(list(source.frames(first))) == 100
    with pytest.raises(Undecodable, match="has more than 100 frames"):
        list(source.frames(Clip("a.mp4", 0, math.inf, 1)))
    assert last.end_s == math.inf


def test_two_kinds_of_selection_exclude_each_other(media: Path, args: AppArgs) -> None:
    with pytest.raises(SourceError, match=r"source\.every_s and source\.every_frames exclude each other"):
        source_of(args, type="video", path=str(save(media / "a.mp4", times_s=[0.0])), every_s=1, every_frames=1)

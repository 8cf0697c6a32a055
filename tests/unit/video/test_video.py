from __future__ import annotations

import functools
import gc
import itertools
import os
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from scripts.trials.field.videos import clips
from scripts.trials.field.videos.servers import sends, serving
from serve_app.errors import SourceError, SourceTooLarge
from serve_app.video.source import parse_source
from serve_app.video.video import open_video
from tests.support.videos import frame_shown, save_video

MAX_PIXELS = 1_000_000


def frames_of(uri: Path | str, max_pixels: int = MAX_PIXELS) -> list[np.ndarray]:
    with open_video(parse_source(str(uri), (Path("/"),)), max_pixels=max_pixels) as video:
        return [pixels() for pixels, _ in video]


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.avi", frames=5, fps=50)
    with open_video(parse_source(str(path), (tmp_path,)), max_pixels=MAX_PIXELS) as video:
        assert (video.fps, video.has_end, video.comes_in_bursts) == (50, True, True)
        read: list[tuple[int, int, object]] = [
            (frame_shown(pixels()), position.index, position.timestamp_s) for pixels, position in video
        ]
    assert read == [(number, number, pytest.approx(number / 50)) for number in range(5)]


def test_a_frames_memory_is_freed_without_garbage_collection(tmp_path: Path) -> None:
    """Count frames in memory, because a reference cycle would keep frames until the next garbage collection."""
    path = save_video(tmp_path / "a.avi", frames=5, fps=50)

    def frames_in_memory() -> int:
        return sum(type(found) is av.VideoFrame for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = frames_in_memory()  # frames of other tests may still exist
        frames_of(path)
        assert frames_in_memory() <= before
    finally:
        gc.enable()


@pytest.fixture(params=["h264.mp4", "h264.mkv", "h264.ts", "h264.flv", "h264.h264", "ffv1.avi", "folder"])
def thirty_frames(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a video whose frames show their numbers.

    H.264 videos have B-frames, and every tenth frame is a key frame.
    """
    lossless = save_video(tmp_path / "a.avi", frames=30, fps=25)
    if request.param == "ffv1.avi":
        return lossless
    pictures = frames_of(lossless)
    if request.param == "folder":
        (tmp_path / "pictures").mkdir()
        for number, picture in enumerate(pictures):
            cv2.imwrite(str(tmp_path / "pictures" / f"{number:02}.png"), picture)
        return tmp_path / "pictures"
    path: Path = tmp_path / request.param
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "bf": "2", "crf": "10"})
        stream.height, stream.width = pictures[0].shape[:2]
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("number", [0, 8, 9, 10, 17, 28, 29])
def test_a_video_continues_right_after_any_frame(thirty_frames: Path, number: int) -> None:
    source = parse_source(str(thirty_frames), (Path("/"),))
    with open_video(source, max_pixels=MAX_PIXELS) as video:
        position = [position for _, position in video][number]
    with open_video(source, max_pixels=MAX_PIXELS, after=position) as video:
        rest = [(frame_shown(pixels()), position.index) for pixels, position in video]
    assert rest == [(later, later) for later in range(number + 1, 30)]


def test_a_clip_that_comes_over_http_has_an_end(tmp_path: Path) -> None:
    save_video(tmp_path / "a.avi", frames=5, fps=50)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        source = parse_source(f"http://127.0.0.1:{server.server_port}/a.avi", ())
        with open_video(source, max_pixels=MAX_PIXELS) as video:
            assert (video.has_end, len(list(video))) == (True, 5)
        server.shutdown()


def test_a_corrupt_part_affects_only_its_own_frames(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.avi", frames=30, fps=50)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    assert 10 <= len(frames_of(path)) <= 30


@pytest.mark.parametrize("content", [b"no video", b"", bytes(100_000)])
def test_a_file_that_is_not_a_video_is_refused_without_showing_its_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(SourceError) as caught:
        frames_of(tmp_path / "a.mp4")
    assert caught.value.detail == "a.mp4 cannot be read as video"


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".tif"])
def test_an_image_is_refused_as_such(tmp_path: Path, kind: str) -> None:
    cv2.imwrite(str(tmp_path / f"a{kind}"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(SourceError, match="is an image, not a video; put it into a folder"):
        frames_of(tmp_path / f"a{kind}")


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_an_image_in_a_video_container_is_refused(tmp_path: Path, brand: bytes) -> None:
    """FFmpeg would read one tile of the image as a video, so the image must be refused."""
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(100))
    with pytest.raises(SourceError, match="is an image, not a video"):
        frames_of(tmp_path / "a.mp4")


@pytest.mark.parametrize("number", range(8))
def test_the_exif_orientation_of_jpegs_in_a_video_is_applied(tmp_path: Path, number: int) -> None:
    (tmp_path / "a.mjpeg").write_bytes(3 * clips.jpeg_turned(1 + number))
    _, shown = list(clips.ORIENTATIONS.values())[number]
    assert [clips.corners(frame) for frame in frames_of(tmp_path / "a.mjpeg")] == 3 * [shown]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.mpo", clips.several(50, 200)), ("a.bin", clips.several(50, 200)), ("a.JPG", clips.jpeg() * 2)],
)
def test_a_multi_picture_file_is_an_image(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="is an image, not a video"):
        frames_of(tmp_path / name)


def test_a_video_of_multi_picture_jpegs_shows_the_first_image_of_each(tmp_path: Path) -> None:
    (tmp_path / "a.mjpeg").write_bytes(clips.several(50, 200) * 3)
    assert [round(frame.mean()) for frame in frames_of(tmp_path / "a.mjpeg")] == [50, 50, 50]


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream"])
@pytest.mark.parametrize("has_length", [True, False])
def test_jpegs_over_http_are_frames_but_a_multi_picture_file_is_a_snapshot(kind: str, has_length: bool) -> None:
    shots = b"".join(clips.jpeg(shade=shade) for shade in (50, 90, 130))
    answers = {
        "/shots": sends(shots, has_length=has_length, Content_Type=kind),
        "/one": sends(clips.several(50, 200), has_length=has_length, Content_Type=kind),
    }
    with serving(answers) as server:
        with open_video(parse_source(f"{server.url}/shots", ()), max_pixels=MAX_PIXELS) as video:
            assert [round(pixels().mean()) for pixels, _ in video] == [50, 90, 130]
        with open_video(parse_source(f"{server.url}/one", ()), max_pixels=MAX_PIXELS) as video:
            assert [round(pixels().mean()) for pixels, _ in itertools.islice(video, 3)] == [50, 50, 50]
    assert server.asked == ["/shots", "/one", "/one", "/one"]


def test_a_file_that_names_other_files_is_refused(tmp_path: Path) -> None:
    save_video(tmp_path / "secret.avi", frames=5, fps=50)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.avi\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.m3u8").write_text(playlist)
    (tmp_path / "a.ffconcat").write_text("ffconcat version 1.0\nfile secret.avi\n")
    for name in ("a.m3u8", "a.ffconcat"):
        with pytest.raises(SourceError):
            frames_of(tmp_path / name)


def test_a_video_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.avi", frames=1, fps=50)
    with pytest.raises(SourceError, match="megapixels"):
        frames_of(path, max_pixels=320 * 320 - 1)


@pytest.mark.parametrize(
    ("codec", "container_format"),
    [("mjpeg", "mjpeg"), ("libx264", "mpegts"), ("libx265", "hevc"), ("mpeg2video", "mpegts"), ("libvpx-vp9", "ivf"),
     ("libvpx", "ivf"), ("libsvtav1", "ivf")],
)  # fmt: skip
def test_frames_that_become_too_large_end_the_source(tmp_path: Path, codec: str, container_format: str) -> None:
    def coded(side_px: int) -> bytes:
        path = tmp_path / f"{side_px}.{container_format}"
        with av.open(str(path), "w", format=container_format) as container:
            stream = container.add_stream(codec, rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.width = stream.height = side_px
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for shade in range(10):
                grey = np.full((side_px, side_px, 3), shade, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "bgr24")))
            container.mux(stream.encode(None))
        # If root uses SVT-AV1, the encoder gives this process a real-time scheduling policy.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return path.read_bytes()

    small, large = coded(64), coded(320)
    (tmp_path / "a").write_bytes(small + (large[32:] if container_format == "ivf" else large))
    shown = []
    with (
        open_video(parse_source(str(tmp_path / "a"), (tmp_path,)), max_pixels=320 * 320 - 1) as video,
        pytest.raises(SourceTooLarge, match="megapixels"),
    ):
        shown += [pixels().shape for pixels, _ in iter(video)]
    assert set(shown) <= {(64, 64, 3)}


def test_a_frame_that_is_too_large_takes_no_memory(tmp_path: Path) -> None:
    small = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    large = small.replace(b"\x00\x40\x00\x40", b"\x2e\xe0\x2e\xe0", 1)  # the header declares 12,000 × 12,000 pixels
    (tmp_path / "a.mjpeg").write_bytes(30 * small + large[:-2] + bytes(1_000_000) + large[-2:])
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak memory use
    before_kib = peak_kib()
    with pytest.raises(SourceTooLarge):
        frames_of(tmp_path / "a.mjpeg", max_pixels=50_000_000)
    assert peak_kib() - before_kib < 50_000


def peak_kib() -> int:
    """Return the peak memory use of this process in KiB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def test_a_file_with_only_sound_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        for packet in stream.encode(sound):
            container.mux(packet)
    with pytest.raises(SourceError, match="cannot be read as video"):
        frames_of(tmp_path / "a.wav")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no image in it; files of other kinds: 0"):
        frames_of(tmp_path)

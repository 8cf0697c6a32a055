from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from scripts.trials.field.videos.servers import SHOTS, sends, serving
from serve_app.errors import Undecodable
from serve_app.streams.bookmark import Bookmark
from serve_app.streams.capture.capture import Capture
from serve_app.streams.capture.reconnect import _backoff_s
from serve_app.streams.progress import Progress
from serve_app.types import Frame
from serve_app.video.source import parse_source
from tests.support import squares
from tests.support.videos import frame_shown, save_video, square_of

pytestmark = pytest.mark.anyio
FRAMES = 12
MAX_PIXELS = 1_000_000


@asynccontextmanager
async def capture_of(
    uri: Path | str, bookmark: Bookmark | None = None, **changes: Any
) -> AsyncIterator[tuple[Capture, Progress]]:
    """Run a capture for the duration of the ``with`` block. It continues at the bookmark."""
    progress = Progress()
    if bookmark is not None:
        progress.resume(bookmark)
    fields: dict[str, Any] = {"policy": "wait", "max_pixels": MAX_PIXELS} | changes
    capture = Capture(parse_source(str(uri), (Path("/"),)), progress, **fields)
    capture.start()
    try:
        async with asyncio.timeout(30):
            yield capture, progress
    finally:
        capture.stop()
        await asyncio.to_thread(capture._thread.join, 30)
        assert not capture._thread.is_alive()


async def next_of(capture: Capture) -> Frame:
    frame = await capture.take()
    assert frame is not None
    return frame


async def all_of(capture: Capture) -> list[Frame]:
    taken = []
    while (frame := await capture.take()) is not None:
        taken.append(frame)
    return taken


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return save_video(tmp_path / "a.avi", frames=FRAMES, fps=200)


async def test_the_wait_policy_delivers_every_frame(video: Path) -> None:
    async with capture_of(video) as (capture, progress):
        frames = await all_of(capture)
    assert [frame.frame_id for frame in frames] == [frame_shown(frame.pixels()) for frame in frames]
    assert [frame.frame_id for frame in frames] == list(range(FRAMES))
    assert (progress.captured, progress.dropped) == (FRAMES, {})


async def test_the_drop_oldest_policy_delivers_the_newest_frame_and_counts_the_others(video: Path) -> None:
    async with capture_of(video, policy="drop_oldest") as (capture, progress):
        await asyncio.to_thread(capture._thread.join)  # read the whole file before taking a frame
        (last,) = await all_of(capture)
    assert frame_shown(last.pixels()) == last.frame_id == FRAMES - 1
    assert (progress.captured, progress.dropped) == (FRAMES, {"newer_frame": FRAMES - 1})


async def test_a_file_continues_after_a_given_frame(video: Path) -> None:
    async with capture_of(video) as (capture, _):
        last = [await next_of(capture) for _ in range(5)][-1]
    bookmark = Bookmark(next_frame_id=last.frame_id + 1, processed=4)
    continued = capture_of(video, bookmark, after=last.position, stream_time_s=last.stream_time_s)
    async with continued as (capture, progress):
        rest = await all_of(capture)
    assert [frame.frame_id for frame in rest] == [frame_shown(frame.pixels()) for frame in rest]
    assert [frame.frame_id for frame in rest] == list(range(5, FRAMES))
    assert rest[0].stream_time_s >= last.stream_time_s
    assert (progress.captured, progress.dropped) == (FRAMES, {"restart": 1})


async def test_a_loop_continues_the_frame_ids(video: Path) -> None:
    async with capture_of(video, loop=True) as (capture, _):
        frames = [await next_of(capture) for _ in range(2 * FRAMES + 1)]
    assert [frame.frame_id for frame in frames] == list(range(2 * FRAMES + 1))
    assert [frame_shown(frame.pixels()) for frame in frames] == [n % FRAMES for n in range(2 * FRAMES + 1)]
    times_s = [frame.stream_time_s for frame in frames]
    assert times_s == sorted(times_s)
    assert times_s[-1] == pytest.approx(2 * (FRAMES - 1) / 200)  # the times follow the file's timestamps, not real time


async def test_max_fps_selects_frames_evenly_by_the_videos_own_clock(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.avi", frames=20, fps=20)
    async with capture_of(path, max_fps=5) as (capture, progress):
        frames = await all_of(capture)
    assert [frame.frame_id for frame in frames] == [0, 4, 8, 12, 16]
    assert progress.dropped == {"max_fps": 15}


async def test_stopping_ends_a_capture_that_waits(video: Path) -> None:
    async with capture_of(video, loop=True) as (capture, progress):
        await capture.take()
        capture.stop()
        left = await all_of(capture)
    assert len(left) <= 1
    assert progress.captured - 1 - len(left) in {0, 1}  # one frame may have been read but not taken
    assert progress.dropped == {}  # a frame that was not taken does not count as dropped; it is read again later


async def test_a_folder_is_a_stream_of_its_images_and_a_corrupt_one_is_reported(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), squares.picture([square_of(number)]))
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n, but no more")
    (tmp_path / "notes.txt").write_text("no image")
    async with capture_of(tmp_path) as (capture, _):
        first, bad, last = await all_of(capture)
    assert (frame_shown(first.pixels()), frame_shown(last.pixels())) == (0, 2)
    with pytest.raises(Undecodable):
        bad.pixels()


async def test_a_folder_with_max_fps_drops_no_image(tmp_path: Path) -> None:
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), squares.picture([square_of(number)]))
    async with capture_of(tmp_path, max_fps=100) as (capture, progress):
        assert [frame_shown(frame.pixels()) for frame in await all_of(capture)] == list(range(5))
    assert progress.dropped == {}


async def test_a_deleted_image_is_reported(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), squares.picture([square_of(number)]))
    async with capture_of(tmp_path) as (capture, _):
        first = await next_of(capture)
        assert frame_shown(first.pixels()) == 0
        (tmp_path / "1.png").unlink()
        with pytest.raises(Undecodable, match="cannot be read"):
            (await next_of(capture)).pixels()
        assert frame_shown((await next_of(capture)).pixels()) == 2


async def test_a_folders_other_files_are_counted_in_each_loop(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), squares.picture([square_of(0)]))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._0.png").write_bytes(b"\x00\x05\x16\x07")  # macOS creates such files
    (tmp_path / "deeper").mkdir()
    async with capture_of(tmp_path, loop=True) as (capture, progress):
        for _ in range(5):
            assert frame_shown((await next_of(capture)).pixels()) == 0
        assert (progress.passed_over, progress.dropped) == (3, {})


async def test_a_snapshot_is_requested_at_max_fps() -> None:
    with serving({"/cam": sends(SHOTS[5], Content_Type="image/jpeg")}) as server:
        async with capture_of(f"{server.url}/cam", max_fps=50, policy="drop_oldest") as (capture, progress):
            frames = [await next_of(capture) for _ in range(10)]
            assert set(progress.dropped) <= {"newer_frame"}
        assert len(server.asked) == progress.captured
    times_s = [frame.stream_time_s for frame in frames]
    assert times_s[-1] - times_s[0] >= 0.9 * 9 / 50
    assert [frame.pixels()[0, 0].tolist() for frame in frames] == [[50, 50, 50]] * 10


async def test_a_snapshot_that_fails_is_requested_again() -> None:
    answers = [sends(SHOTS[5]), sends(b"", 503), sends(SHOTS[5]), sends(SHOTS[5][:-40]), sends(SHOTS[9])]
    left = list(answers)
    with serving({"/cam": lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)}) as server:
        async with capture_of(f"{server.url}/cam", max_fps=100) as (capture, progress):
            greys = []
            while 90 not in greys:
                frame = await next_of(capture)
                with contextlib.suppress(Undecodable):
                    greys.append(round(frame.pixels().mean()))
            assert greys[:2] == [50, 50]
            assert progress.reconnects == 1


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Yield a socket that accepts connections and sends nothing by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def answer_with(listener: socket.socket, data: bytes) -> str:
    """Start a thread that sends the data to every client and closes the connection. Return the source's URI."""

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(data)

    threading.Thread(target=answer, daemon=True).start()
    return f"http://admin:hunter2@127.0.0.1:{listener.getsockname()[1]}/cam"


async def health_of(progress: Progress, state: str) -> str:
    """Wait for a state, and return the reason for it."""
    while progress.health()[0] != state:
        await asyncio.sleep(0.01)
    return progress.health()[1]


async def test_a_live_source_that_refuses_connections_is_retried(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    async with capture_of(f"http://127.0.0.1:{port}/cam", policy="drop_oldest") as (_, progress):
        while progress.reconnects < 3:
            await asyncio.sleep(0.01)
        assert await health_of(progress, "reconnecting") == f"http://127.0.0.1:{port}/…: Connection refused"


@pytest.mark.parametrize(
    ("head", "cause"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "refuses these credentials; check them"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"\xa5" * 100_000, "cannot be read as video"),
    ],
    ids=["credentials", "garbage"],
)
async def test_a_source_that_needs_its_operator_has_failed_and_is_rarely_retried(
    listener: socket.socket, head: bytes, cause: str
) -> None:
    uri = answer_with(listener, head)
    async with capture_of(uri, policy="drop_oldest") as (_, progress):
        detail = await health_of(progress, "failed")
    assert detail.endswith(cause)
    assert "hunter2" not in detail
    assert progress.reconnects == 1


async def test_a_live_source_that_ends_is_reopened_and_its_frame_ids_continue(
    listener: socket.socket, tmp_path: Path
) -> None:
    path = save_video(tmp_path / "a.avi", frames=5, fps=50)
    frames = [frame.read_bytes() for frame in jpegs_of(path, tmp_path)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"
    parts = (b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(j), j) for j in frames)
    uri = answer_with(listener, head + b"".join(parts))
    async with capture_of(uri) as (capture, progress):
        ids = [(await next_of(capture)).frame_id for _ in range(12)]
    assert ids == list(range(12))
    assert progress.reconnects >= 2


async def test_a_camera_whose_frames_become_too_large_has_failed(listener: socket.socket) -> None:
    small, large = (cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8))[1].tobytes() for side in (64, 1024))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"
    parts = (
        b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(j), j)
        for j in [small] * 9 + [large]
    )
    uri = answer_with(listener, head + b"".join(parts))
    async with capture_of(uri, policy="drop_oldest") as (_, progress):
        detail = await health_of(progress, "failed")
    assert detail.endswith("has frames of more than 1 megapixels")
    assert (progress.captured, progress.reconnects) == (9, 1)


def jpegs_of(video: Path, folder: Path) -> list[Path]:
    reader = cv2.VideoCapture(str(video))
    paths: list[Path] = []
    while (read := reader.read())[0]:
        paths.append(folder / f"{len(paths)}.jpg")
        cv2.imwrite(str(paths[-1]), read[1])
    reader.release()
    return paths


def test_pauses_grow_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    assert [_backoff_s(failures) for failures in (0, 1, 2, 3)] == [0.1, 0.2, 0.4, 0.8]
    assert _backoff_s(7) == _backoff_s(10_000) == 1.5

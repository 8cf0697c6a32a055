"""Tests of streams from real RTSP, HLS and MPEG-TS servers. In some tests, a relay can cut the connection."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from scripts.trials.camera import FPS
from scripts.trials.relay import Relay
from serve_app.schemas.streams import Policy
from serve_app.streams.capture.capture import Capture
from serve_app.streams.progress import Progress
from serve_app.types import Frame
from serve_app.video.source import parse_source
from tests.integration.conftest import CAMERA_FRAMES, rtsp_camera
from tests.support import squares
from tests.support.videos import frame_shown, square_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def camera_port(pictures: Path) -> Iterator[int]:
    with rtsp_camera(pictures) as port:
        yield port


@dataclass
class Watched:
    """The progress of a running capture, and the frames that the capture has delivered."""

    progress: Progress
    frames: list[Frame] = field(default_factory=list)

    async def more(self, count: int) -> None:
        """Wait for ``count`` more frames."""
        wanted = len(self.frames) + count
        while len(self.frames) < wanted:
            await asyncio.sleep(0.02)

    async def health(self, state: str) -> str:
        """Wait until the capture has this state, and return the reason for the state."""
        while self.progress.health()[0] != state:
            await asyncio.sleep(0.02)
        return self.progress.health()[1]

    def shown(self) -> list[int]:
        return [frame_shown(frame.pixels()) for frame in self.frames]


@asynccontextmanager
async def watch(uri: str, policy: Policy = "drop_oldest") -> AsyncIterator[Watched]:
    """Run a capture and collect its frames. Stop the capture at the end."""
    watched = Watched(Progress())
    capture = Capture(parse_source(uri, (Path("/"),)), watched.progress, policy=policy, max_pixels=1_000_000)

    async def take() -> None:
        while (frame := await capture.take()) is not None:
            watched.progress.detection_started()
            watched.frames.append(frame)
            watched.progress.detection_succeeded()
        watched.progress.complete()

    capture.start()
    taking = asyncio.create_task(take())
    try:
        async with asyncio.timeout(60):
            yield watched
    finally:
        capture.stop()
        await taking
        await asyncio.to_thread(capture._thread.join, 30)
        assert not capture._thread.is_alive()


async def test_the_frames_of_a_camera_arrive_in_order(camera_port: int) -> None:
    async with watch(f"rtsp://127.0.0.1:{camera_port}/cam", "wait") as watched:
        await watched.more(2 * CAMERA_FRAMES)
    shown = watched.shown()
    assert shown == [(shown[0] + n) % CAMERA_FRAMES for n in range(len(shown))]
    assert [frame.frame_id for frame in watched.frames] == list(range(len(shown)))
    assert watched.progress.source_fps == FPS


async def test_a_camera_is_reconnected_after_every_cut(camera_port: int) -> None:
    with Relay(camera_port) as cable:
        async with watch(f"rtsp://127.0.0.1:{cable.port}/cam") as watched:
            for cuts in range(5):
                await watched.more(3)
                cable.cut()
                while watched.progress.reconnects <= cuts:
                    await asyncio.sleep(0.02)
            await watched.more(3)
            assert await watched.health("running") == ""
    assert watched.progress.reconnects >= 5
    ids = [frame.frame_id for frame in watched.frames]
    assert ids == sorted(set(ids))


async def test_an_unplugged_camera_is_reconnecting_until_it_is_back(camera_port: int) -> None:
    with Relay(camera_port) as cable:
        async with watch(f"rtsp://127.0.0.1:{cable.port}/cam") as watched:
            await watched.more(1)
            cable.unplug()
            await watched.health("reconnecting")
            before = watched.progress.reconnects
            while watched.progress.reconnects < before + 4:
                await asyncio.sleep(0.02)
            assert watched.progress.health()[0] == "reconnecting"
            cable.plug()
            assert await watched.health("running") == ""


async def test_a_frozen_camera_is_stalled_and_continues_when_it_thaws(camera_port: int) -> None:
    with Relay(camera_port) as cable:
        async with watch(f"rtsp://127.0.0.1:{cable.port}/cam") as watched:
            await watched.more(3)
            cable.freeze()
            assert (await watched.health("stalled")).startswith("no frame for")
            cable.thaw()
            assert await watched.health("running") == ""


async def test_a_wrong_password_fails_and_is_not_shown(pictures: Path) -> None:
    with rtsp_camera(pictures, "admin:hunter2") as port:
        async with watch(f"rtsp://admin:hunter2@127.0.0.1:{port}/cam") as watched:
            await watched.more(1)
        async with watch(f"rtsp://admin:wrong@127.0.0.1:{port}/cam") as watched:
            refusal = f"rtsp://127.0.0.1:{port}/… answered 401 Unauthorized: it refuses these credentials; check them"
            assert await watched.health("failed") == refusal


def save_coded(path: Path, container_format: str, options: dict[str, str]) -> None:
    """Save the camera's images as an H.264 video in this container format."""
    with av.open(str(path), "w", format=container_format, options=options) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = squares.SIZE_PX
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for number in range(CAMERA_FRAMES):
            frame = av.VideoFrame.from_ndarray(squares.picture([square_of(number)]), "bgr24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


async def test_a_recorded_playlist_is_played_to_its_end(tmp_path: Path) -> None:
    save_coded(tmp_path / "a.m3u8", "hls", {"hls_time": "0.5", "hls_list_size": "0"})
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            uri = f"http://127.0.0.1:{server.server_port}/a.m3u8"
            async with watch(uri, "wait") as watched:
                await watched.health("completed")
        finally:
            server.shutdown()
    assert watched.shown() == list(range(CAMERA_FRAMES))


async def test_the_frames_of_a_web_camera_have_no_made_up_timestamps(pictures: Path) -> None:
    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for number in range(CAMERA_FRAMES):
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n")
                self.wfile.write((pictures / f"{number}.jpg").read_bytes() + b"\r\n")
            self.wfile.write(b"--frame--\r\n")

    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            async with watch(f"http://127.0.0.1:{server.server_port}/", "wait") as watched:
                await watched.more(CAMERA_FRAMES)
        finally:
            server.shutdown()
    assert watched.shown()[:CAMERA_FRAMES] == list(range(CAMERA_FRAMES))
    # If a stream has no timestamps, FFmpeg invents timestamps for 25 fps. The capture must not use invented timestamps.
    assert {frame.position.timestamp_s for frame in watched.frames} == {None}
    assert watched.progress.source_fps is None


async def test_a_stream_that_continues_with_only_sound_is_stalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.video.ffmpeg._READ_TIMEOUT_S", 0.3)
    with av.open(str(tmp_path / "a.ts"), "w", format="mpegts") as container:
        video, sound = container.add_stream("libx264", rate=FPS), container.add_stream("aac", rate=8000)
        video.width = video.height = squares.SIZE_PX
        video.pix_fmt = "yuv420p"
        for number in range(FPS):
            container.mux(video.encode(av.VideoFrame.from_ndarray(squares.picture([square_of(number)]), "bgr24")))
        container.mux(video.encode(None))
        for number in range(200):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.rate, silence.pts = 8000, 1024 * number
            container.mux(sound.encode(silence))
    data = (tmp_path / "a.ts").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def send() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                for start in range(0, len(data), 1880):
                    connection.sendall(data[start : start + 1880])
                    time.sleep(0.02)

        thread = threading.Thread(target=send)
        thread.start()
        async with watch(f"tcp://127.0.0.1:{listener.getsockname()[1]}", "wait") as watched:
            assert "sound but no video" in await watched.health("stalled")
        thread.join(10)


async def test_a_transport_stream_over_tcp_is_a_source(tmp_path: Path) -> None:
    save_coded(tmp_path / "a.ts", "mpegts", {})
    data = (tmp_path / "a.ts").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def send() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(data)

        thread = threading.Thread(target=send)
        thread.start()
        async with watch(f"tcp://127.0.0.1:{listener.getsockname()[1]}", "wait") as watched:
            await watched.more(CAMERA_FRAMES)
        thread.join(10)
    assert watched.shown()[:CAMERA_FRAMES] == list(range(CAMERA_FRAMES))

"""Tests of images of sources that are not streams yet, which a separate process reads."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from serve_app.config import StreamArgs
from serve_app.errors import Overloaded, SourceError
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import SourceSpec
from serve_app.streams import source_frames
from serve_app.streams.source_frames import MAX_SOURCE_FRAMES, SourceFrames
from serve_app.video.first_frame import read_first_frame
from serve_app.video.source import parse_source
from tests.support.videos import frame_shown, save_video

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def frames_below(folder: Path) -> SourceFrames:
    return SourceFrames(StreamArgs(media_dirs=str(folder)), AddressGuard(), 1_000_000)


def of(path: Path | str) -> SourceSpec:
    return SourceSpec(uri=str(path))


async def test_the_first_frame_of_a_video_is_an_image(tmp_path: Path) -> None:
    video = save_video(tmp_path / "a.mp4", frames=5, fps=5)
    jpeg = await frames_below(tmp_path).read(of(video))
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert frame_shown(pixels) == 0


async def test_a_source_passes_the_checks_of_a_stream(tmp_path: Path) -> None:
    frames = frames_below(tmp_path / "media")
    outside = save_video(tmp_path / "outside.mp4", frames=1, fps=5)
    for uri in (outside, "../outside.mp4", "gopher://camera/1", "tcp://camera:1?listen=1", "/etc/passwd", "concat:a"):
        with pytest.raises(SourceError):
            await frames.read(of(uri))


def test_a_source_without_video_or_with_large_frames_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("no video")
    with pytest.raises(SourceError, match=r"a\.txt"):
        read_first_frame(parse_source(str(text), (tmp_path,)), 1_000_000, AddressGuard())
    video = save_video(tmp_path / "a.mp4", frames=2, fps=5)
    with pytest.raises(SourceError, match="pixels"):
        read_first_frame(parse_source(str(video), (tmp_path,)), 100, AddressGuard())


async def test_a_silent_source_is_refused_after_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_frames, "_TIMEOUT_S", 0.5)
    connected = threading.Semaphore(0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def accept() -> None:
            for _ in range(MAX_SOURCE_FRAMES):
                accepted.append(server.accept())
                connected.release()

        threading.Thread(target=accept, daemon=True).start()
        frames = frames_below(tmp_path)
        silent = of(f"rtsp://user:secret@127.0.0.1:{server.getsockname()[1]}/1")
        reading = [asyncio.create_task(frames.read(silent)) for _ in range(MAX_SOURCE_FRAMES)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="source_frames: "):
            await frames.read(silent)
        for error in await asyncio.gather(*reading, return_exceptions=True):
            assert isinstance(error, SourceError)
            assert "no frame within" in error.detail
            assert "secret" not in error.detail
        video = save_video(tmp_path / "a.mp4", frames=1, fps=5)
        monkeypatch.setattr(source_frames, "_TIMEOUT_S", 10.0)
        assert await frames.read(of(video))

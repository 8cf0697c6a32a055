"""Tests of streams from folders, snapshots and playlists, with the whole service."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.trials.field.videos import clips
from scripts.trials.field.videos.servers import IV, KEY, encrypted, hls, segments, sends, serving
from tests.integration.conftest import Service, start_stream, stream_results
from tests.integration.streams.conftest import status_when
from tests.support import squares
from tests.support.videos import frame_of, square_of

pytestmark = pytest.mark.usefixtures("streams")


def test_every_file_of_a_folder_is_processed_dropped_or_skipped(service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("0.jfif", "1.jpe", "2.MPO", "IMG_3"):
        (folder / name).write_bytes(squares.encode(squares.picture([square_of(0)])))
    (folder / "4.heic").write_bytes(b"\0\0\0\x18ftypheic, and no more")
    (folder / "notes.txt").write_text("no image")
    start_stream(service.url, folder)
    status = status_when(service, "the end", state="completed")
    assert (status.processed, sum(status.dropped.values()), status.passed_over) == (4, 1, 1)


def test_the_url_of_a_single_picture_is_a_source(service: Service) -> None:
    picture = squares.encode(squares.picture([square_of(7)]))
    with serving({"/cam": sends(picture, Content_Type="image/jpeg")}) as server:
        start_stream(service.url, f"{server.url}/cam", max_fps=20)
        for result in stream_results(service.url, 3):
            (found,) = result.detections
            assert frame_of(found.bbox.x1, found.bbox.y1) == 7


def test_an_encrypted_playlist_is_read_to_its_end(service: Service) -> None:
    parts = [encrypted(part) for part in segments()]
    tag = f'#EXT-X-KEY:METHOD=AES-128,URI="key",IV=0x{IV.hex()}'
    with serving({**hls(["seg/0", "s.php?n=1", "2"], parts, tag), "/key": sends(KEY)}) as server:
        start_stream(service.url, f"{server.url}/a.m3u8")
        assert status_when(service, "the end", state="completed").captured == 30


def test_the_cover_picture_of_a_video_is_not_processed(service: Service, tmp_path: Path) -> None:
    path = clips.save(tmp_path / "a.mp4")
    path.write_bytes(clips.with_cover(path.read_bytes(), clips.jpeg(200, 200), first=True))
    start_stream(service.url, path)
    status = status_when(service, "the end", state="completed")
    assert status.latest is not None
    assert (status.processed, status.latest.image.width) == (clips.FRAMES, clips.WIDTH_PX)

"""Tests of streams from their source to their results."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from tests.integration.conftest import (
    LONG_TIMEOUT_S,
    Service,
    eventually,
    start_stream,
    stream_events,
    stream_ids,
    stream_results,
    stream_status,
    workers,
)
from tests.integration.streams.conftest import status_when
from tests.support import squares
from tests.support.videos import frame_of, frame_shown, square_of

pytestmark = pytest.mark.usefixtures("streams")


def test_a_file_is_processed_to_its_end_and_nothing_is_dropped(service: Service, video: Path) -> None:
    created = start_stream(service.url, video, tags={"site": "north"})
    assert (created.stream_id, created.source, created.policy) == ("lot", "squares.avi", "wait")
    status = status_when(service, "the end", state="completed")
    assert (status.captured, status.processed, status.dropped, status.detail) == (60, 60, {}, "")
    assert status.tags == {"site": "north"}
    assert status.latest is not None
    assert status.latest.frame_id == 59
    assert status.latest.age_s is not None
    assert status.latest.age_s > 0
    eventually(lambda: not workers("StreamWorker"), what="the end of its process")


def test_every_frame_has_its_own_result_and_none_is_missing(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    results = stream_results(service.url, 150)
    assert [result.frame_id for result in results] == list(range(results[0].frame_id, results[0].frame_id + 150))
    for result in results:
        (found,) = result.detections
        assert (found.label, found.confidence) == ("red", 1.0)
        assert frame_of(found.bbox.x1, found.bbox.y1) == result.frame_id % 60


def test_dropped_frames_are_counted(service: Service, video: Path) -> None:
    start_stream(service.url, video, policy="drop_oldest", degrade=True)
    status = status_when(service, "the end", state="completed")
    assert status.processed + sum(status.dropped.values()) == status.captured == 60
    assert set(status.dropped) <= {"newer_frame"}


def test_http_and_a_stream_share_the_detector(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    before = stream_results(service.url, 1)[0].frame_id
    data = squares.encode(squares.picture([square_of(77)]))
    for _ in range(30):
        (found,) = httpx.post(f"{service.url}/detect", content=data, timeout=LONG_TIMEOUT_S).json()["detections"]
        assert frame_of(found["bbox"]["x1"], found["bbox"]["y1"]) == 77
    latest = stream_status(service.url).latest
    assert latest is not None
    assert latest.frame_id > before


def test_the_newest_frame_can_be_fetched(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    shown = httpx.get(f"{service.url}/streams/lot/frame.jpg", params={"boxes": "false"}, timeout=LONG_TIMEOUT_S)
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")
    pixels = cv2.imdecode(np.frombuffer(shown.content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    number = frame_shown(pixels)
    assert number == int(shown.headers["X-Frame-Id"]) % 60


def test_previews_of_streams_arrive_over_one_websocket(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True, max_fps=20)
    with connect(f"{service.url}/streams/previews".replace("http", "ws"), proxy=None) as socket:
        socket.send(json.dumps({"streams": ["lot", "none"], "boxes": False}))
        frame_ids: list[int] = []
        while len(frame_ids) < 3:
            message = socket.recv(timeout=LONG_TIMEOUT_S)
            if isinstance(message, str):
                assert json.loads(message)["stream_id"] == "none"
                continue
            end = 4 + int.from_bytes(message[:4])
            header, jpeg = json.loads(message[4:end]), message[end:]
            pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert pixels is not None
            assert frame_shown(pixels) == header["frame_id"] % 60
            assert header["stream_id"] == "lot"
            assert header["captured_at_s"] > 1e9
            frame_ids.append(header["frame_id"])
    assert frame_ids == sorted(set(frame_ids))


def test_a_frame_of_a_source_is_shown_before_it_is_a_stream(service: Service, video: Path) -> None:
    def ask(uri: str) -> httpx.Response:
        body = {"source": {"uri": uri}}
        return httpx.post(f"{service.url}/streams/snapshot", json=body, timeout=LONG_TIMEOUT_S)

    shown = ask(str(video))
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")
    pixels = cv2.imdecode(np.frombuffer(shown.content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert frame_shown(pixels) == 0
    for uri in ("/etc/passwd", str(video.parent / "none.avi"), "rtsp://127.0.0.1:9/1"):
        refused = ask(uri)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_source")
    assert stream_ids(service.url) == []


def test_a_file_that_is_not_a_video_fails_with_the_reason(service: Service, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video")
    start_stream(service.url, tmp_path / "notes.mp4")
    assert status_when(service, "failure", state="failed").detail == "notes.mp4 cannot be read as video"


def test_zones_are_counted_and_edited_while_the_stream_runs(service: Service, video: Path) -> None:
    everywhere = {"name": "all", "polygon": [(0, 0), (1, 0), (1, 1), (0, 1)]}
    start_stream(service.url, video, loop=True, zones=[everywhere])
    events = stream_events(service.url, types="zone")
    entered = next(events)
    events.close()
    assert (entered["zone"], entered["change"], entered["label"]) == ("all", "entered", "red")
    line = {"name": "gate", "start": (0.5, 0), "end": (0.5, 1)}
    changed = httpx.put(
        f"{service.url}/streams/lot/regions", json={"lines": [line]}, timeout=LONG_TIMEOUT_S
    ).raise_for_status()
    assert changed.json()["zones"] == {}
    eventually(lambda: any(stream_status(service.url).lines["gate"].model_dump().values()), what="a crossing")

"""Test the routes of recordings through a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.streams.outputs.recordings import Recordings, name_at
from tests.support.api import is_error
from tests.support.stream_server import StreamServer, serve_streams

NAMES = [name_at(at_s) for at_s in (1_700_000_300, 1_700_000_200, 1_700_000_100)]  # the newest first
CLIP = bytes(range(256)) * 6000  # more than one piece


@pytest.fixture
def served(tmp_path: Path) -> Iterator[StreamServer]:
    for name in NAMES:
        (tmp_path / f"{name}.mp4").write_bytes(CLIP)
        (tmp_path / f"{name}.jpg").write_bytes(b"snapshot")
    with serve_streams() as served:
        served.http.post("/streams", json={"id": "lot", "source": {"uri": "rtsp://camera/1"}}).raise_for_status()
        served.streams.recorded["lot"] = Recordings(tmp_path, 0)
        yield served


def test_recordings_are_listed_in_pages(served: StreamServer) -> None:
    page = served.http.get("/streams/lot/recordings", params={"limit": 2}).json()
    assert page["recordings"][0] == {
        "name": NAMES[0],
        "triggered_at_s": 1_700_000_300,
        "clip": f"{NAMES[0]}.mp4",
        "snapshot": f"{NAMES[0]}.jpg",
        "size_bytes": len(CLIP),
    }
    rest = served.http.get("/streams/lot/recordings", params={"limit": 2, "before": page["next"]}).json()
    assert [one["name"] for one in page["recordings"] + rest["recordings"]] == NAMES
    assert rest["next"] is None


def test_a_clip_is_sent_whole_and_in_ranges(served: StreamServer) -> None:
    url = f"/streams/lot/recordings/{NAMES[0]}.mp4"
    whole = served.http.get(url)
    assert (whole.status_code, whole.content, whole.headers["Content-Type"]) == (200, CLIP, "video/mp4")
    assert (whole.headers["Accept-Ranges"], whole.headers["X-Content-Type-Options"]) == ("bytes", "nosniff")
    part = served.http.get(url, headers={"Range": "bytes=1048570-1048580"})
    assert (part.status_code, part.content) == (206, CLIP[1048570:1048581])
    assert part.headers["Content-Range"] == f"bytes 1048570-1048580/{len(CLIP)}"
    assert is_error(served.http.get(url, headers={"Range": f"bytes={len(CLIP)}-"}), 416, "invalid_parameter")
    assert served.http.get(url, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    head = served.http.head(url)
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(CLIP)))


def test_a_snapshot_is_a_jpeg(served: StreamServer) -> None:
    snapshot = served.http.get(f"/streams/lot/recordings/{NAMES[0]}.jpg")
    assert (snapshot.status_code, snapshot.content) == (200, b"snapshot")
    assert snapshot.headers["Content-Type"] == "image/jpeg"


@pytest.mark.parametrize("file_name", ["events.jsonl", "..%2Fevents.jsonl", f"{NAMES[0]}.mp4.part", "%00"])
def test_other_files_are_not_found(served: StreamServer, file_name: str) -> None:
    assert is_error(served.http.get(f"/streams/lot/recordings/{file_name}"), 404, "not_found")


def test_an_unknown_stream_has_no_recordings(served: StreamServer) -> None:
    for path in ("/streams/gate/recordings", f"/streams/gate/recordings/{NAMES[0]}.mp4"):
        assert is_error(served.http.get(path), 404, "not_found")

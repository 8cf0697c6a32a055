"""Create, inspect, change and delete streams with both clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.client import ApiError, ConflictError, NotFoundError
from serve_app.errors import InvalidParameter
from serve_app.schemas.detect import ImageSize, TimingMs
from serve_app.schemas.streams import Line, Regions, SourceSpec, StreamResult, StreamSpec, StreamStatus
from serve_app.streams.outputs.recordings import Recordings, name_at
from serve_app.types import Snapshot
from tests.support.stream_server import StreamServer

CAMERA = {"id": "lot", "source": {"uri": "rtsp://user:secret@camera/1"}, "max_fps": 5}


def test_a_stream_is_created_listed_and_deleted(client: Any, served: StreamServer) -> None:
    assert client.streams.create(CAMERA).state == "running"
    client.streams.create(StreamSpec(id="yard", source=SourceSpec(uri="b.mp4"), track=True))
    assert (served.streams.specs["lot"].max_fps, served.streams.specs["yard"].track) == (5, True)
    assert [stream.stream_id for stream in client.streams.list()] == ["lot", "yard"]
    assert client.streams.status("lot").state == "running"
    assert client.streams.delete("yard") is None
    assert list(served.streams.specs) == ["lot"]


def test_a_stream_without_an_id_gets_one(client: Any) -> None:
    assert client.streams.create({"source": {"uri": "a.mp4"}}).stream_id.startswith("stream-")
    assert client.streams.create(StreamSpec(source=SourceSpec(uri="a.mp4"))).stream_id.startswith("stream-")


def test_a_stream_has_the_generated_id_of_its_specification(client: Any, served: StreamServer) -> None:
    spec = StreamSpec(source=SourceSpec(uri="a.mp4"))
    assert client.streams.create(spec).stream_id == spec.id
    assert client.streams.replace(spec).stream_id == spec.id
    assert list(served.streams.specs) == [spec.id]


@pytest.mark.parametrize("body", [{"source": {"uri": "a.mp4"}}, {"id": 7, "source": {"uri": "a.mp4"}}])
def test_a_stream_cannot_be_replaced_without_an_id(client: Any, body: Any) -> None:
    with pytest.raises(ValueError, match=r"^id: it is missing; set it to the id of the stream to replace"):
        client.streams.replace(body)


def test_a_stream_is_replaced(client: Any, served: StreamServer) -> None:
    client.streams.create(CAMERA)
    client.streams.replace(CAMERA | {"max_fps": 7})
    assert served.streams.specs["lot"].max_fps == 7
    client.streams.replace(StreamSpec(id="lot", source=SourceSpec(uri="b.mp4")))
    assert served.streams.specs["lot"].source.uri == "b.mp4"


def test_a_stream_is_paused_and_resumed(client: Any) -> None:
    client.streams.create(CAMERA)
    assert client.streams.pause("lot").state == "paused"
    assert client.streams.resume("lot").state == "running"


def test_regions_are_read_and_changed(client: Any) -> None:
    client.streams.create(CAMERA)
    gate = Line(name="gate", start=(0.5, 0), end=(0.5, 1))
    client.streams.set_regions("lot", Regions(lines=[gate]))
    assert client.streams.regions("lot").lines == [gate]
    client.streams.set_regions("lot", {"zones": [], "lines": []})
    assert client.streams.regions("lot") == Regions()


def test_the_latest_frame_is_a_result_and_a_picture(client: Any, served: StreamServer) -> None:
    client.streams.create(CAMERA)
    for read in (client.streams.detections, client.streams.frame):
        with pytest.raises(ApiError) as refused:
            read("lot")
        assert (refused.value.code, refused.value.is_retryable) == ("unavailable", True)
    served.streams.shots = {"drawn": Snapshot(7, b"drawn"), "plain": Snapshot(8, b"plain")}
    assert client.streams.frame("lot") == Snapshot(7, b"drawn")
    assert client.streams.frame("lot", boxes=False) == Snapshot(8, b"plain")
    result = StreamResult(
        count=0,
        detections=[],
        image=ImageSize(width=4, height=3),
        model="fake",
        timing_ms=TimingMs(decode=0, queue=0, inference=0, postprocess=0, total=0),
        batch_size=1,
        stream_id="lot",
        frame_id=9,
        captured_at_s=1,
        age_s=0,
    )
    served.streams.latest = StreamStatus(
        stream_id="lot", state="running", source="camera", policy="wait", latest=result
    )
    frame = client.streams.detections("lot")
    assert (frame.frame_id, frame.xyxy.shape, frame.track_id.shape) == (9, (0, 4), (0,))


def test_conflicts_and_unknown_streams_have_their_own_error_classes(client: Any) -> None:
    client.streams.create(CAMERA)
    with pytest.raises(ConflictError, match="stream 'lot' already exists"):
        client.streams.create(CAMERA)
    for stream_id in ("nothing", "a/b", "../lot", "ü"):
        with pytest.raises(NotFoundError):
            client.streams.status(stream_id)


def test_the_servers_error_about_a_specification_is_raised(client: Any, served: StreamServer) -> None:
    with pytest.raises(ApiError, match="fsp"):
        client.streams.create(CAMERA | {"fsp": 3})
    served.streams.failure = InvalidParameter("no class 'unicorn'")
    with pytest.raises(ApiError, match="no class 'unicorn'") as refused:
        client.streams.create(CAMERA)
    assert refused.value.code == "invalid_parameter"


def test_recordings_are_listed_and_saved(client: Any, served: StreamServer, tmp_path: Path) -> None:
    client.streams.create(CAMERA)
    folder = tmp_path / "lot"
    folder.mkdir()
    names = [f"{name_at(at_s)}.mp4" for at_s in range(150, 0, -1)]  # more than one page
    for name in names:
        (folder / name).write_bytes(name.encode())
    served.streams.recorded["lot"] = Recordings(folder, 0)
    assert [recording.clip for recording in client.streams.recordings("lot")] == names
    client.streams.save_recording("lot", names[7], tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").read_bytes() == names[7].encode()
    with pytest.raises(NotFoundError):
        client.streams.save_recording("lot", "other.mp4", tmp_path / "other.mp4")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "clip.mp4", folder]

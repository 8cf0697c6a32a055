from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest
from ray import serve

from scripts.launch import is_ready
from serve_app.app import build_app
from serve_app.deployments import stream_worker as worker
from serve_app.schemas.streams import StreamStatus
from serve_app.streams.store import StreamStore
from tests.integration.conftest import (
    APPLICATION,
    PATIENCE_S,
    Service,
    delete_stream,
    eventually,
    frame_pools,
    replicas,
    start_stream,
    stream_events,
    stream_ids,
    stream_results,
    stream_status,
    workers,
)
from tests.support import squares
from tests.support.videos import frame_of, frame_shown, save_video, square_of

pytestmark = pytest.mark.usefixtures("streams")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames, 3 s."""
    return save_video(tmp_path_factory.mktemp("videos") / "squares.avi", frames=60, fps=20)


def status_when(service: Service, look: str, **expected: Any) -> StreamStatus:
    """The stream's status, once these fields of it have these values."""

    def found() -> StreamStatus | None:
        try:
            status = stream_status(service.url)
        except httpx.HTTPStatusError:  # the supervisor is away
            return None
        return status if all(getattr(status, name) == value for name, value in expected.items()) else None

    return eventually(found, what=look)


def process_of_stream() -> psutil.Process:
    (process,) = eventually(lambda: workers("StreamWorker"), what="its process")
    return process


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait(10)


def test_a_file_is_processed_to_its_end_and_nothing_is_dropped(service: Service, video: Path) -> None:
    created = start_stream(service.url, video, tags={"site": "north"})
    assert (created.stream_id, created.source, created.policy) == ("lot", "squares.avi", "wait")
    status = status_when(service, "the end", state="completed")
    assert (status.captured, status.processed, status.dropped, status.detail) == (60, 60, {}, "")
    assert status.tags == {"site": "north"}
    assert status.latest.frame_id == 59
    assert status.latest.age_s > 0
    eventually(lambda: not workers("StreamWorker"), what="the end of its process")


def test_every_result_is_its_own_frames_and_none_is_missing(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    results = stream_results(service.url, 150)
    assert [result.frame_id for result in results] == list(range(results[0].frame_id, results[0].frame_id + 150))
    for result in results:
        (found,) = result.detections
        assert (found.label, found.confidence) == ("red", 1.0)
        assert frame_of(found.bbox.x1, found.bbox.y1) == result.frame_id % 60


def test_what_a_live_stream_drops_is_counted(service: Service, video: Path) -> None:
    start_stream(service.url, video, policy="drop_oldest", degrade=True)
    status = status_when(service, "the end", state="completed")
    assert status.processed + sum(status.dropped.values()) == status.captured == 60
    assert set(status.dropped) <= {"newer_frame"}


def test_http_and_a_stream_share_the_detector(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    before = stream_results(service.url, 1)[0].frame_id
    data = squares.encode(squares.picture([square_of(77)]))
    for _ in range(30):
        (found,) = httpx.post(f"{service.url}/detect", content=data, timeout=PATIENCE_S).json()["detections"]
        assert frame_of(found["bbox"]["x1"], found["bbox"]["y1"]) == 77
    assert stream_status(service.url).latest.frame_id > before


def test_the_newest_frame_is_seen_with_its_boxes(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    shown = httpx.get(f"{service.url}/streams/lot/frame.jpg", params={"boxes": "false"}, timeout=PATIENCE_S)
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")
    number = frame_shown(cv2.imdecode(np.frombuffer(shown.content, np.uint8), cv2.IMREAD_COLOR))
    assert number == int(shown.headers["X-Frame-Id"]) % 60


def test_what_is_no_video_fails_and_says_why(service: Service, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video")
    start_stream(service.url, tmp_path / "notes.mp4")
    assert status_when(service, "failure", state="failed").detail == "notes.mp4 cannot be read as video"


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        ({"source": {"uri": "/etc/hostname"}}, "invalid_source", "SERVE_APP_MEDIA_DIRS"),
        ({"source": {"uri": "ftp://user:secret@host/file"}}, "invalid_source", "rtsp"),
        ({"detect": {"classes": ["unicorn"]}}, "invalid_parameter", "no class 'unicorn'"),
        ({"detect": {"model": "cars"}}, "invalid_parameter", "there is no 'cars'"),
        ({"sinks": [{"type": "jsonl", "path": "../a.jsonl"}]}, "invalid_parameter", "leads out"),
        ({"id": "../lot"}, "invalid_parameter", "id"),
        ({"fsp": 3}, "invalid_parameter", "fsp"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_stream_that_cannot_be_is_refused(
    service: Service, video: Path, fields: dict[str, Any], code: str, sentence: str
) -> None:
    spec = {"id": "lot", "source": {"uri": str(video)}} | fields
    refused = httpx.post(f"{service.url}/streams", json=spec, timeout=PATIENCE_S)
    assert (refused.status_code, refused.json()["code"]) == (422, code)
    assert sentence in refused.json()["detail"]
    assert "secret" not in refused.text
    assert stream_ids(service.url) == []


def test_an_id_is_given_once(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    again = httpx.post(f"{service.url}/streams", json={"id": "lot", "source": {"uri": str(video)}}, timeout=PATIENCE_S)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert stream_ids(service.url) == ["lot"]


@pytest.fixture
def slow_url(service: Service, stream_folders: dict[str, str]) -> Iterator[str]:
    """A second application, whose detector takes 40 pictures a second."""
    args = {"model": {"engine": "sleep"}, "streams": stream_folders}
    serve.run(build_app(args), name="slow", route_prefix="/slow")
    url = f"{service.url}/slow"
    eventually(lambda: is_ready(url), what="readiness")
    yield url
    for stream_id in stream_ids(url):
        delete_stream(url, stream_id)
    serve.delete("slow")


def test_more_than_the_detectors_can_hold_is_refused_unless_it_may_degrade(slow_url: str) -> None:
    camera = "rtsp://127.0.0.1:9/"
    start_stream(slow_url, camera, stream_id="first")
    second = {"id": "second", "source": {"uri": camera}}
    refused = httpx.post(f"{slow_url}/streams", json=second, timeout=PATIENCE_S)
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert "send 25, and this one would add 25" in refused.json()["detail"]
    for fields in ({"max_fps": 5}, {"degrade": True}):
        httpx.post(f"{slow_url}/streams", json=second | fields, timeout=PATIENCE_S).raise_for_status()
        delete_stream(slow_url, "second")
    httpx.post(f"{slow_url}/streams/first/pause", timeout=PATIENCE_S).raise_for_status()
    httpx.post(f"{slow_url}/streams", json=second, timeout=PATIENCE_S).raise_for_status()
    resumed = httpx.post(f"{slow_url}/streams/first/resume", timeout=PATIENCE_S)
    assert resumed.status_code == 503
    assert stream_status(slow_url, "first").state == "paused"


def test_streams_that_come_at_once_are_admitted_one_after_the_other(slow_url: str) -> None:
    def create(number: int) -> int:
        spec = {"id": f"at-once-{number}", "source": {"uri": "rtsp://127.0.0.1:9/"}}
        return httpx.post(f"{slow_url}/streams", json=spec, timeout=PATIENCE_S).status_code

    with ThreadPoolExecutor(4) as clients:
        assert sorted(clients.map(create, range(4))) == [201, 503, 503, 503]
    assert len(stream_ids(slow_url)) == 1


def test_a_stream_that_is_created_paused_waits_until_it_is_resumed(service: Service, video: Path) -> None:
    created = start_stream(service.url, video, paused=True)
    assert (created.state, workers("StreamWorker")) == ("paused", [])
    resumed = httpx.post(f"{service.url}/streams/lot/resume", timeout=PATIENCE_S).raise_for_status().json()
    assert resumed["state"] == "starting"
    assert status_when(service, "the end", state="completed").processed == 60


def test_a_stream_is_gone_though_nobody_waited_for_its_end(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.delete(f"{service.url}/streams/lot", timeout=0.02)
    eventually(lambda: stream_ids(service.url) == [], what="its end")
    assert worker.running(APPLICATION) == set()
    assert status_of_missing(service) == 404


def test_a_failed_stream_is_taken_up_when_its_source_is_mended(service: Service, video: Path, tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_text("not a video")
    start_stream(service.url, tmp_path / "a.avi")
    status_when(service, "failure", state="failed")
    (tmp_path / "a.avi").write_bytes(video.read_bytes())
    httpx.post(f"{service.url}/streams/lot/resume", timeout=PATIENCE_S).raise_for_status()
    assert status_when(service, "the end", state="completed").processed == 60


def test_a_stream_is_replaced_and_goes_on_where_the_new_one_cannot_be(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    last_id = next(stream_events(service.url, types="result"))["event_id"]
    spec = {"source": {"uri": str(video)}, "detect": {"classes": ["unicorn"]}}
    assert httpx.put(f"{service.url}/streams/lot", json=spec, timeout=PATIENCE_S).status_code == 422
    stream_results(service.url, 1)
    httpx.put(f"{service.url}/streams/lot", json=spec | {"detect": {}}, timeout=PATIENCE_S).raise_for_status()
    status = status_when(service, "the end", state="completed")
    assert (status.captured, status.processed, status.dropped) == (60, 60, {})
    events = stream_events(service.url, after=last_id, types="state")
    assert next(event for event in events if event.get("state") == "completed")["event_id"] > last_id


def status_of_missing(service: Service) -> int:
    return httpx.get(f"{service.url}/streams/lot", timeout=PATIENCE_S).status_code


def test_a_killed_worker_is_replaced_and_no_frame_counts_twice(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    events = stream_events(service.url, types="result,gap", after=0)
    before = [next(events) for _ in range(20)]
    kill(process_of_stream())
    events.close()
    later = stream_events(service.url, types="result,gap", after=0)
    gap = next(later)
    after = [next(later) for _ in range(20)]
    assert gap["type"] == "gap"
    assert gap["lost"] <= 1
    ids = [event["frame_id"] for event in after]
    assert ids == list(range(gap["next_frame_id"], gap["next_frame_id"] + 20))
    assert before[-1]["frame_id"] < ids[0]
    assert frame_of(*(after[0]["detections"][0]["bbox"][side] for side in ("x1", "y1"))) == ids[0] % 60
    status = stream_status(service.url)
    assert status.restarts == 1
    assert status.captured - status.processed - sum(status.dropped.values()) in range(4)  # those under way


def test_a_new_supervisor_joins_the_workers_that_run(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    process, before = process_of_stream(), stream_status(service.url)
    (supervisor,) = replicas("StreamSupervisor")
    kill(supervisor)

    def found() -> StreamStatus | None:
        try:
            return stream_status(service.url)
        except httpx.HTTPStatusError:
            return None

    eventually(lambda: (status := found()) and status.processed > before.processed, what="an answer of the next one")
    assert workers("StreamWorker") == [process]
    after = stream_status(service.url)
    assert (after.restarts, after.dropped) == (0, {})
    assert after.uptime_s > before.uptime_s


def test_a_new_supervisor_ends_what_is_not_to_run(
    service: Service, video: Path, stream_folders: dict[str, str]
) -> None:
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    store = StreamStore(Path(stream_folders["state_dir"]) / APPLICATION)
    (record,) = store.records()
    (supervisor,) = replicas("StreamSupervisor")
    # As if it had died between writing down that the stream is paused and ending its process.
    store.put(record.model_copy(update={"spec": record.spec.model_copy(update={"paused": True})}))
    kill(supervisor)
    eventually(lambda: not workers("StreamWorker"), what="the end of its process")
    assert status_when(service, "the pause", state="paused").restarts == 0


def test_a_stream_goes_on_when_its_detector_was_killed(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    before = stream_results(service.url, 1)[0].frame_id
    (detector,) = replicas("Detector")
    kill(detector)
    results = stream_results(service.url, 10)
    assert [result.frame_id for result in results] == list(range(results[0].frame_id, results[0].frame_id + 10))
    assert results[0].frame_id > before
    assert stream_status(service.url).dropped == {}


def test_a_paused_stream_has_no_process_and_goes_on_where_it_was(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 10)
    paused = httpx.post(f"{service.url}/streams/lot/pause", timeout=PATIENCE_S).raise_for_status().json()
    assert paused["state"] == "paused"
    eventually(lambda: not workers("StreamWorker"), what="the end of its process")
    assert stream_status(service.url).state == "paused"
    httpx.post(f"{service.url}/streams/lot/resume", timeout=PATIENCE_S).raise_for_status()
    events = stream_events(service.url, types="gap,result", after=0)
    gap = next(events)
    events.close()
    assert (gap["next_frame_id"], gap["lost"]) == (paused["latest"]["frame_id"] + 1, 0)


def test_zones_are_counted_and_edited_while_the_stream_runs(service: Service, video: Path) -> None:
    everywhere = {"name": "all", "polygon": [(0, 0), (1, 0), (1, 1), (0, 1)]}
    start_stream(service.url, video, loop=True, zones=[everywhere])
    events = stream_events(service.url, types="zone")
    entered = next(events)
    events.close()
    assert (entered["zone"], entered["change"], entered["label"]) == ("all", "entered", "red")
    line = {"name": "gate", "start": (0.5, 0), "end": (0.5, 1)}
    changed = httpx.put(
        f"{service.url}/streams/lot/regions", json={"lines": [line]}, timeout=PATIENCE_S
    ).raise_for_status()
    assert changed.json()["zones"] == {}
    eventually(lambda: any(stream_status(service.url).lines["gate"].model_dump().values()), what="a crossing")


def test_a_deleted_stream_leaves_nothing(service: Service, video: Path, stream_folders: dict[str, str]) -> None:
    pools = frame_pools()
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    delete_stream(service.url)
    assert frame_pools() == pools
    assert stream_ids(service.url) == []
    assert worker.running(APPLICATION) == set()
    kept = [path.name for path in (Path(stream_folders["state_dir"]) / APPLICATION).iterdir()]
    assert kept == ["lock"]
    missing = httpx.get(f"{service.url}/streams/lot", timeout=PATIENCE_S)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


@pytest.fixture
def changing(service: Service) -> Iterator[Service]:
    """The application of a test that deploys others in its place: whatever comes of it, the next test finds its own."""
    yield service
    service.deploy()


def test_a_stream_outlives_a_rolling_update_and_ends_with_its_application_and_comes_back(
    changing: Service, video: Path, others: set[str]
) -> None:
    service = changing
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    before = stream_status(service.url)
    service.deploy(service.args | {"detect": {"confidence": 0.4}})
    eventually(lambda: stream_status(service.url).processed > before.processed + 10, what="going on")
    status = stream_status(service.url)
    assert status.uptime_s > before.uptime_s  # the same worker, not a new one
    assert status.dropped == {}
    service.deploy(service.args | {"detect": {"confidence": 1.0}})  # nothing is above that
    eventually(lambda: stream_status(service.url).latest.count == 0, what="the new threshold")
    serve.delete(APPLICATION)
    eventually(lambda: not workers("StreamWorker"), what="the stream's end")
    eventually(lambda: frame_pools() <= others, what="an empty shared memory")
    service.deploy()
    eventually(lambda: stream_ids(service.url) == ["lot"], what="the stream's return")
    assert stream_results(service.url, 1)[0].frame_id > status.processed


def run_script(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/streams.py"), *arguments],
        env=os.environ | {"SIGHTLINE_URL": service.url, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_script_starts_lists_watches_and_stops(service: Service, video: Path) -> None:
    def script(*arguments: str) -> str:
        done = run_script(service, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "lot" in script("start", "--id", "lot", "--source", str(video), "--confidence", "0.9")
    status_when(service, "the end", state="completed")
    assert "squares.avi" in script("list")
    watched = script("watch", "lot")
    assert "59" in watched
    assert "red" in watched
    assert "lot" in script("stop", "lot")
    assert "lot" not in script("list")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["start", "--id", "lot", "--source", "/etc/hostname"], "SERVE_APP_MEDIA_DIRS"),
        (["start", "--id", "lot", "--source", "ftp://host/file"], "rtsp"),
        (["start", "--id", "lot", "--source", "{video}", "--classes", "unicorn"], "no class 'unicorn'"),
        (["stop", "lot"], "no stream"),
        (["watch", "lot"], "no stream"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_script_refuses_in_a_sentence(service: Service, video: Path, arguments: list[str], sentence: str) -> None:
    done = run_script(service, *(argument.format(video=video) for argument in arguments))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert stream_ids(service.url) == []

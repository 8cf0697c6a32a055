from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve

from serve_app.errors import Conflict, NotFound
from serve_app.stream_schemas import SourceSpec, StreamSpec, StreamStatus
from serve_app.streams import worker
from serve_app.streams.source import parse_source
from tests import squares
from tests.integration.conftest import APPLICATION, Service, eventually, frame_pools, workers
from tests.videos import frame_of, save_video, square_of

pytestmark = pytest.mark.usefixtures("streams")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames, 3 s."""
    return save_video(tmp_path_factory.mktemp("videos") / "squares.avi", frames=60, fps=20)


def start(video: Path, *, loop: bool = False, application: str = APPLICATION, **fields: Any) -> None:
    spec = StreamSpec(id="lot", source=SourceSpec(uri=str(video), loop=loop), **fields)
    worker.start(spec, parse_source(str(video), (video.parent,)), application)


def status(stream_id: str) -> StreamStatus:
    return StreamStatus(**ray.get(worker.find(stream_id).status.remote(), timeout=30))


def processed(stream_id: str) -> int:
    try:
        return status(stream_id).processed
    except (NotFound, ray.exceptions.RayError):
        return 0


def test_a_file_is_processed_to_its_end_and_nothing_is_dropped(service: Service, video: Path) -> None:
    start(video)
    eventually(lambda: status("lot").state == "completed" and processed("lot") == 60, what="the end")
    now = status("lot")
    assert (now.captured, now.processed, now.dropped, now.detail) == (60, 60, {}, "")
    assert now.source == "squares.avi"
    assert now.latest.frame_id == 59
    assert now.latest.age_s > 0


def test_every_result_is_its_own_frames(service: Service, video: Path) -> None:
    start(video, loop=True)
    seen = {}

    def look() -> bool:
        latest = status("lot").latest
        if latest is not None:
            seen[latest.frame_id] = latest
        return len(seen) >= 20

    eventually(look, what="20 results")
    for frame_id, result in seen.items():
        (found,) = result.detections
        assert (found.label, found.confidence) == ("red", 1.0)
        assert frame_of(found.bbox.x1, found.bbox.y1) == frame_id % 60


def test_what_a_live_stream_drops_is_counted(service: Service, video: Path) -> None:
    start(video, policy="drop_oldest")
    eventually(lambda: status("lot").state == "completed", what="the end")
    eventually(lambda: status("lot").processed + sum(status("lot").dropped.values()) == 60, what="a full account")
    assert set(status("lot").dropped) <= {"newer_frame"}


def test_http_and_a_stream_share_the_detector(service: Service, video: Path) -> None:
    start(video, loop=True)
    eventually(lambda: processed("lot"), what="a result")
    before = processed("lot")
    data = squares.encode(squares.picture([square_of(77)]))
    for _ in range(30):
        (found,) = httpx.post(f"{service.url}/detect", content=data, timeout=30).json()["detections"]
        assert frame_of(found["bbox"]["x1"], found["bbox"]["y1"]) == 77
    assert processed("lot") > before


def test_an_id_is_given_once(service: Service, video: Path) -> None:
    start(video)
    with pytest.raises(Conflict):
        start(video)


def test_a_stream_needs_an_application(service: Service, video: Path) -> None:
    with pytest.raises(NotFound):
        start(video, application="nothing")


def test_what_is_no_video_fails_and_says_why(service: Service, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video")
    start(tmp_path / "notes.mp4")
    eventually(lambda: status("lot").state == "failed", what="failure")
    assert status("lot").detail == "notes.mp4 cannot be read as video"


def test_a_killed_worker_starts_again_by_itself(service: Service, video: Path) -> None:
    start(video, loop=True)
    eventually(lambda: processed("lot"), what="a result")
    (process,) = workers("StreamWorker")
    process.kill()
    process.wait(10)
    eventually(lambda: processed("lot"), what="a result of the restarted worker")


def test_a_stopped_stream_leaves_nothing(service: Service, video: Path) -> None:
    pools = frame_pools()
    start(video, loop=True)
    eventually(lambda: processed("lot"), what="a result")
    worker.stop("lot")
    eventually(lambda: frame_pools() == pools, what="an empty shared memory")
    assert worker.stream_ids() == []


def test_a_stream_outlives_a_rolling_update_and_ends_with_its_application(
    service: Service, video: Path, others: set[str]
) -> None:
    start(video, loop=True)
    eventually(lambda: processed("lot"), what="a result")
    service.deploy(service.args | {"detect": {"confidence": 0.4}})
    eventually(lambda: status("lot").detail == "", what="an answer of the new replicas")
    before = status("lot")
    eventually(lambda: status("lot").processed > before.processed + 10, what="going on")
    assert status("lot").uptime_s > before.uptime_s  # the same worker, not a new one
    assert status("lot").dropped == {}
    service.deploy(service.args | {"detect": {"confidence": 1.0}})  # nothing is above that
    eventually(lambda: status("lot").latest.count == 0, what="the new threshold")
    serve.delete(APPLICATION)
    eventually(lambda: worker.stream_ids() == [], what="the stream's end")
    eventually(lambda: frame_pools() <= others, what="an empty shared memory")
    service.deploy()


def run_script(service: Service, *arguments: str, media_dirs: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/streams.py"), *arguments],
        env=os.environ | {"RAY_ADDRESS": service.address, "SERVE_APP_MEDIA_DIRS": str(media_dirs), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_script_starts_lists_watches_and_stops(service: Service, video: Path) -> None:
    def script(*arguments: str) -> str:
        done = run_script(service, *arguments, media_dirs=video.parent)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "stream lot is" in script("start", "--id", "lot", "--source", str(video), "--confidence", "0.9")
    eventually(lambda: status("lot").state == "completed", what="the end")
    assert "squares.avi" in script("list")
    watched = script("watch", "lot")
    assert "frame 59" in watched
    assert "red" in watched
    assert "stopped" in script("stop", "lot")
    assert "lot" not in script("list")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["start", "--id", "lot", "--source", "/etc/hostname"], "SERVE_APP_MEDIA_DIRS"),
        (["start", "--id", "lot", "--source", "concat:a|b"], "SERVE_APP_MEDIA_DIRS"),
        (["start", "--id", "lot", "--source", "ftp://host/file"], "rtsp"),
        (["start", "--id", "../lot", "--source", "{video}"], "--id"),
        (["start", "--id", "lot", "--source", "{video}", "--confidence", "7"], "confidence"),
        (["start", "--id", "lot", "--source", "{video}", "--classes", "unicorn"], "no class 'unicorn'"),
        (["start", "--id", "lot", "--source", "{video}", "--application", "nothing"], "no application"),
        (["stop", "lot"], "no stream"),
        (["watch", "lot"], "no stream"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_script_refuses_in_a_sentence(service: Service, video: Path, arguments: list[str], sentence: str) -> None:
    filled = [argument.format(video=video) for argument in arguments]
    done = run_script(service, *filled, media_dirs=video.parent)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert worker.stream_ids() == []

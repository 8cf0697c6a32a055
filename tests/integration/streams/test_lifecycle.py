"""Tests of streams that are paused, replaced or deleted, and of streams during a rolling update."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray import serve

from scripts.trials.cluster import APPLICATION, frame_pools
from scripts.trials.follower import written
from serve_app.deployments import stream_worker as worker
from tests.integration.conftest import (
    LONG_TIMEOUT_S,
    Service,
    delete_stream,
    eventually,
    start_stream,
    stream_events,
    stream_ids,
    stream_results,
    stream_status,
    wait_for_release,
    workers,
)
from tests.integration.streams.conftest import status_when

pytestmark = pytest.mark.usefixtures("streams")


def test_a_stream_created_paused_starts_when_it_is_resumed(service: Service, video: Path) -> None:
    created = start_stream(service.url, video, paused=True)
    assert (created.state, workers("StreamWorker")) == ("paused", [])
    resumed = httpx.post(f"{service.url}/streams/lot/resume", timeout=LONG_TIMEOUT_S).raise_for_status().json()
    assert resumed["state"] == "starting"
    assert status_when(service, "the end", state="completed").processed == 60


def test_a_stream_is_deleted_even_if_the_client_disconnects(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.delete(f"{service.url}/streams/lot", timeout=httpx.Timeout(LONG_TIMEOUT_S, read=0.02))
    eventually(lambda: stream_ids(service.url) == [], what="its end")
    assert worker.actor_names(APPLICATION) == set()
    assert status_of_missing(service) == 404


def test_a_failed_stream_can_be_resumed_after_its_source_is_repaired(
    service: Service, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.avi").write_text("not a video")
    start_stream(service.url, tmp_path / "a.avi")
    status_when(service, "failure", state="failed")
    (tmp_path / "a.avi").write_bytes(video.read_bytes())
    httpx.post(f"{service.url}/streams/lot/resume", timeout=LONG_TIMEOUT_S).raise_for_status()
    assert status_when(service, "the end", state="completed").processed == 60


def test_a_stream_is_replaced_or_continues_if_the_new_one_is_invalid(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    last_id = next(stream_events(service.url, types="result"))["event_id"]
    spec = {"source": {"uri": str(video)}, "detect": {"classes": ["unicorn"]}}
    assert httpx.put(f"{service.url}/streams/lot", json=spec, timeout=LONG_TIMEOUT_S).status_code == 422
    stream_results(service.url, 1)
    httpx.put(f"{service.url}/streams/lot", json=spec | {"detect": {}}, timeout=LONG_TIMEOUT_S).raise_for_status()
    status = status_when(service, "the end", state="completed")
    assert (status.captured, status.processed, status.dropped) == (60, 60, {})
    events = stream_events(service.url, after=last_id, types="state")
    assert next(event for event in events if event.get("state") == "completed")["event_id"] > last_id


def status_of_missing(service: Service) -> int:
    return httpx.get(f"{service.url}/streams/lot", timeout=LONG_TIMEOUT_S).status_code


def test_a_paused_stream_has_no_process_and_continues_at_its_bookmark(
    service: Service, video: Path, stream_folders: dict[str, str]
) -> None:
    start_stream(service.url, video, loop=True, stream_id="is-paused", sinks=[{"type": "jsonl"}])
    stream_results(service.url, 10, "is-paused")
    paused = httpx.post(f"{service.url}/streams/is-paused/pause", timeout=LONG_TIMEOUT_S).raise_for_status().json()
    assert paused["state"] == "paused"
    eventually(lambda: not workers("StreamWorker"), what="the end of its process")
    assert stream_status(service.url, "is-paused").state == "paused"
    httpx.post(f"{service.url}/streams/is-paused/resume", timeout=LONG_TIMEOUT_S).raise_for_status()
    stream_results(service.url, 1, "is-paused")
    delete_stream(service.url, "is-paused")  # completes the file of the stream's sink
    (gap,) = [event for event in written(Path(stream_folders["output_dir"]), "is-paused") if event["type"] == "gap"]
    assert (gap["next_frame_id"], gap["lost"]) == (paused["latest"]["frame_id"] + 1, 0)


def test_a_deleted_stream_leaves_nothing_behind(service: Service, video: Path, stream_folders: dict[str, str]) -> None:
    pools = frame_pools()
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    delete_stream(service.url)
    wait_for_release(pools)
    assert stream_ids(service.url) == []
    assert worker.actor_names(APPLICATION) == set()
    kept = {path.name for path in (Path(stream_folders["state_dir"]) / APPLICATION).iterdir()}
    assert {name for name in kept if not name.startswith(("jobs", "drift"))} == {"lock"}
    missing = httpx.get(f"{service.url}/streams/lot", timeout=LONG_TIMEOUT_S)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


@pytest.fixture
def changing(service: Service) -> Iterator[Service]:
    """Return the application for a test that changes it, and restore its settings after the test."""
    yield service
    service.deploy()


def test_a_stream_survives_a_rolling_update_and_a_new_deployment(
    changing: Service, video: Path, others: set[str]
) -> None:
    service = changing
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    before = stream_status(service.url)
    service.deploy(service.args | {"detect": {"confidence": 1.0}})  # no detection has a confidence above 1.0
    eventually(lambda: stream_status(service.url).processed > before.processed + 10, what="the next results")

    def nothing_found() -> bool:
        latest = stream_status(service.url).latest
        assert latest is not None
        return latest.count == 0

    status = stream_status(service.url)
    assert status.uptime_s > before.uptime_s  # the worker was not restarted
    assert status.dropped == {}
    eventually(nothing_found, what="the new threshold")
    serve.delete(APPLICATION)
    eventually(lambda: not workers("StreamWorker"), what="the stream's end")
    wait_for_release(others)
    service.deploy()
    eventually(lambda: stream_ids(service.url) == ["lot"], what="the stream's return")
    assert stream_results(service.url, 1)[0].frame_id > status.processed

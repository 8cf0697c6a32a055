"""Tests of streams whose worker, supervisor or Detector is killed."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from scripts.trials.cluster import APPLICATION
from scripts.trials.follower import written
from serve_app.schemas.streams import StreamStatus
from serve_app.streams.store import StreamStore
from tests.integration.conftest import (
    Service,
    delete_stream,
    eventually,
    replicas,
    start_stream,
    stream_results,
    stream_status,
    workers,
)
from tests.integration.streams.conftest import kill, process_of_stream, status_when
from tests.support.videos import frame_of

pytestmark = pytest.mark.usefixtures("streams")


def test_a_killed_worker_is_replaced_and_no_frame_counts_twice(
    service: Service, video: Path, stream_folders: dict[str, str]
) -> None:
    start_stream(service.url, video, loop=True, stream_id="worker-killed", sinks=[{"type": "jsonl"}])
    stream_results(service.url, 20, "worker-killed")
    kill(process_of_stream())
    stream_results(service.url, 20, "worker-killed")
    status = stream_status(service.url, "worker-killed")
    delete_stream(service.url, "worker-killed")  # completes the file of the stream's sink
    events = [
        event for event in written(Path(stream_folders["output_dir"]), "worker-killed") if event["type"] != "state"
    ]
    (gap,) = [event for event in events if event["type"] == "gap"]
    before, after = events[: events.index(gap)], events[events.index(gap) + 1 :]
    assert gap["lost"] <= 1
    assert len(before) >= 20
    assert len(after) >= 20
    ids = [event["frame_id"] for event in after]
    assert ids == list(range(gap["next_frame_id"], gap["next_frame_id"] + len(after)))
    assert before[-1]["frame_id"] < ids[0]
    assert frame_of(*(after[0]["detections"][0]["bbox"][side] for side in ("x1", "y1"))) == ids[0] % 60
    assert status.restarts == 1
    assert status.captured - status.processed - sum(status.dropped.values()) in range(4)  # the frames in flight


def test_a_restarted_supervisor_joins_the_running_workers(service: Service, video: Path) -> None:
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

    eventually(
        lambda: (status := found()) and status.processed > before.processed,
        what="an answer of the restarted supervisor",
    )
    assert workers("StreamWorker") == [process]
    after = stream_status(service.url)
    assert (after.restarts, after.dropped) == (0, {})
    assert after.uptime_s > before.uptime_s


def test_a_restarted_supervisor_stops_workers_that_should_not_run(
    service: Service, video: Path, stream_folders: dict[str, str]
) -> None:
    start_stream(service.url, video, loop=True)
    stream_results(service.url, 1)
    store = StreamStore(Path(stream_folders["state_dir"]) / APPLICATION)
    (record,) = store.records()
    (supervisor,) = replicas("StreamSupervisor")
    # Simulate a supervisor that crashed after it had stored the pause, but before it had stopped the worker.
    store.put(record.model_copy(update={"spec": record.spec.model_copy(update={"paused": True})}))
    kill(supervisor)
    eventually(lambda: not workers("StreamWorker"), what="the end of its process")
    assert status_when(service, "the pause", state="paused").restarts == 0


def test_a_stream_continues_after_its_detector_was_killed(service: Service, video: Path) -> None:
    start_stream(service.url, video, loop=True)
    before = stream_results(service.url, 1)[0].frame_id
    (detector,) = replicas("Detector")
    kill(detector)
    results = stream_results(service.url, 10)
    assert [result.frame_id for result in results] == list(range(results[0].frame_id, results[0].frame_id + 10))
    assert results[0].frame_id > before
    assert stream_status(service.url).dropped == {}

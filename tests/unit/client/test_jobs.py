"""Create, watch, change and delete jobs with both clients."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from scripts.launch import free_port
from serve_app.client import ApiError, AsyncClient, Client, ConflictError, ConnectionFailed, NotFoundError
from serve_app.client.async_ import AsyncStreamsApi
from serve_app.client.jobs import AsyncJobsApi, JobsApi
from serve_app.client.sync import StreamsApi
from serve_app.errors import NoSpace, Overloaded
from serve_app.schemas.jobs import JobSpec, UploadSource
from tests.support.fake_jobs import FakeJobs, failure_of, result_of
from tests.support.stream_server import StreamServer

JOB = {"id": "night", "source": {"type": "files", "path": "night"}}
UPLOAD = {"id": "up", "source": {"type": "upload"}}


@pytest.fixture(autouse=True)
def jobs(served: StreamServer) -> FakeJobs:
    """Return the server's jobs, of which there are none yet."""
    vars(served.jobs).update(vars(FakeJobs()))
    return served.jobs


def calls(client: Any, tmp_path: Path) -> dict[str, Any]:
    """Return a call of each method of ``client.jobs`` that takes the id of a job, for the job ``none``."""
    file = tmp_path / "a.jpg"
    file.write_bytes(b"1")
    jobs = client.jobs
    return {
        "status": lambda: jobs.status("none"),
        "wait": lambda: jobs.wait("none"),
        "items": lambda: list(jobs.items("none")),
        "save_results": lambda: jobs.save_results("none", tmp_path / "a.jsonl"),
        "cancel": lambda: jobs.cancel("none"),
        "pause": lambda: jobs.pause("none"),
        "resume": lambda: jobs.resume("none"),
        "retry": lambda: jobs.retry("none"),
        "delete": lambda: jobs.delete("none"),
        "upload": lambda: jobs.upload("none", file),
        "start": lambda: jobs.start("none"),
        "image": lambda: jobs.image("none", 0),
        "set_owner": lambda: jobs.set_owner("none", "dock"),
        "events": lambda: next(iter(jobs.events("none"))),
    }


def others(client: Any) -> dict[str, Any]:
    """Return a call of each method of ``client.jobs`` that takes no id."""
    jobs = client.jobs
    return {"create": lambda: jobs.create(JOB), "put": lambda: jobs.put(JOB), "list": lambda: list(jobs.list())}


def methods(api: type) -> dict[str, list[tuple[str, Any, Any]]]:
    """Return the public methods of a class, each with the names, the kinds and the defaults of its parameters."""
    return {
        name: [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]
        for name, method in vars(api).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("one", "other"), [(Client, AsyncClient), (StreamsApi, AsyncStreamsApi), (JobsApi, AsyncJobsApi)]
)
def test_both_clients_have_the_same_methods(one: type, other: type) -> None:
    assert methods(one) == methods(other)


def test_every_method_of_jobs_is_called_below(client: Any, tmp_path: Path) -> None:
    assert calls(client, tmp_path).keys() | others(client).keys() == methods(JobsApi).keys()


def test_a_job_is_created_once_listed_and_deleted(client: Any, jobs: FakeJobs) -> None:
    assert client.jobs.create(JOB).state == "queued"
    with pytest.raises(ConflictError, match="already exists"):
        client.jobs.create(JOB)
    assert client.jobs.put(JOB).job_id == "night"
    with pytest.raises(ConflictError):
        client.jobs.put(JOB | {"weight": 2})
    spec = JobSpec(source=UploadSource(type="upload"), tags={"site": "dock"})
    assert client.jobs.put(spec).job_id == spec.id
    assert [job.job_id for job in client.jobs.list()] == [spec.id, "night"]
    assert [job.job_id for job in client.jobs.list(state="collecting", tag="site=dock")] == [spec.id]
    assert client.jobs.delete("night") is None
    assert list(jobs.specs) == [spec.id]


def test_a_job_that_shall_be_put_needs_an_id(client: Any) -> None:
    with pytest.raises(ValueError, match=r"^id: it is missing"):
        client.jobs.put({"source": JOB["source"]})


def test_lists_continue_over_several_pages(client: Any, jobs: FakeJobs) -> None:
    for number in range(101):
        client.jobs.create(JOB | {"id": f"job{number}"})
    assert [job.job_id for job in client.jobs.list()] == [f"job{number}" for number in reversed(range(101))]
    jobs.done["job0"] = [(failure_of if item % 2 else result_of)("job0", item) for item in range(1001)]
    assert [item.item for item in client.jobs.items("job0")] == list(range(1001))
    assert [item.item for item in client.jobs.items("job0", state="failed")] == list(range(1, 1001, 2))


def test_a_job_is_awaited(client: Any, jobs: FakeJobs) -> None:
    client.jobs.create(JOB)
    with pytest.raises(TimeoutError):
        client.jobs.wait("night", timeout_s=0)
    jobs.set_state("night", "completed")
    assert client.jobs.wait("night").state == "completed"


def test_a_job_is_paused_resumed_cancelled_and_retried(client: Any, jobs: FakeJobs) -> None:
    client.jobs.create(JOB)
    assert client.jobs.pause("night").state == "paused"
    assert client.jobs.resume("night").state == "running"
    assert client.jobs.cancel("night").state == "cancelled"
    for change in (client.jobs.pause, client.jobs.resume):
        with pytest.raises(ConflictError, match="has ended"):
            change("night")
    client.jobs.retry("night")
    client.jobs.retry("night", ["missing"])
    assert [retry.items for retry in jobs.retried] == ["failed", ["missing"]]


def test_files_of_any_size_are_uploaded_in_pieces_before_the_start(client: Any, jobs: FakeJobs, tmp_path: Path) -> None:
    large = bytes(range(256)) * 10_000
    (tmp_path / "a.jpg").write_bytes(large)
    (tmp_path / "b.jpg").touch()
    client.jobs.create(UPLOAD)
    client.jobs.upload("up", tmp_path / "a.jpg")
    client.jobs.upload("up", str(tmp_path / "b.jpg"), "ä b.jpg")
    assert jobs.uploads["up"] == {"a.jpg": large, "ä b.jpg": b""}
    assert client.jobs.start("up").state == "completed"
    with pytest.raises(ConflictError, match="started already"):
        client.jobs.start("up")
    with pytest.raises(ConflictError, match="started already"):
        client.jobs.upload("up", tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError):
        client.jobs.upload("up", tmp_path / "c.jpg")


def test_a_full_disk_refuses_an_upload(client: Any, jobs: FakeJobs, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    client.jobs.create(UPLOAD)
    jobs.failure = NoSpace("jobs.max_disk_gib: full", limit="jobs.max_disk_gib")
    with pytest.raises(ApiError) as refused:
        client.jobs.upload("up", tmp_path / "a.jpg")
    assert (refused.value.code, refused.value.limit) == ("no_space", "jobs.max_disk_gib")


def test_the_results_appear_as_a_whole_file(client: Any, jobs: FakeJobs, tmp_path: Path) -> None:
    client.jobs.create(JOB)
    jobs.done["night"] = [result_of("night", 0)]
    target = tmp_path / "night.jsonl"
    client.jobs.save_results("night", str(target))
    assert json.loads(target.read_text())["name"] == "0.jpg"  # the results so far
    with pytest.raises(ConflictError) as refused:
        client.jobs.save_results("night", target, "coco")
    assert refused.value.code == "not_finished"
    jobs.set_state("night", "completed")
    jobs.files["night", "coco"] = b"{}" * 1_000_000
    client.jobs.save_results("night", target, "coco")
    assert target.read_bytes() == b"{}" * 1_000_000
    with pytest.raises(FileNotFoundError):
        client.jobs.save_results("night", tmp_path / "none" / "a.jsonl")
    assert list(tmp_path.iterdir()) == [target]


def test_the_image_of_an_item_has_boxes_unless_none_are_wanted(client: Any, jobs: FakeJobs) -> None:
    client.jobs.create(JOB)
    jobs.done["night"] = [result_of("night", 0)]
    assert (client.jobs.image("night", 0), client.jobs.image("night", 0, boxes=False)) == (b"drawn", b"plain")
    with pytest.raises(NotFoundError, match="no item 1"):
        client.jobs.image("night", 1)


def test_a_job_gets_an_owner_once(client: Any, jobs: FakeJobs) -> None:
    client.jobs.create(JOB)
    assert client.jobs.set_owner("night", "dock").owner == "dock"
    with pytest.raises(ConflictError):
        client.jobs.set_owner("night", "yard")


def test_the_events_of_a_job_are_followed(client: Any, served: StreamServer) -> None:
    client.jobs.create(JOB)
    events = client.jobs.events("night", types=["state"], after=-1)
    assert next(events).data.state == "queued"
    served.do(lambda: served.jobs.set_state("night", "running"))
    event = next(events)
    assert (event.event_id, event.job_id, event.data.state, event.data.previous) == (1, "night", "running", "queued")


def test_a_refusal_for_a_limit_can_be_retried(client: Any, jobs: FakeJobs) -> None:
    jobs.failure = Overloaded("jobs.max_jobs: full", limit="jobs.max_jobs")
    with pytest.raises(ApiError) as refused:
        client.jobs.create(JOB)
    assert (refused.value.code, refused.value.limit, refused.value.is_retryable) == (
        "overloaded",
        "jobs.max_jobs",
        True,
    )


def test_every_method_says_that_the_job_is_unknown(client: Any, tmp_path: Path) -> None:
    for name, call in calls(client, tmp_path).items():
        with pytest.raises(NotFoundError, match="job 'none' does not exist"):
            call()
        assert [one.name for one in tmp_path.iterdir()] == ["a.jpg"], name


def test_every_method_says_that_no_server_responds(connect: Any, tmp_path: Path) -> None:
    client = connect(f"http://127.0.0.1:{free_port()}")
    for call in (calls(client, tmp_path) | others(client)).values():
        with pytest.raises(ConnectionFailed, match="no server responds"):
            call()
    assert [one.name for one in tmp_path.iterdir()] == ["a.jpg"]

"""Tests of the commands ``sightline jobs`` with a server whose jobs are fakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import yaml

from scripts.launch import free_port
from serve_app.cli import job_tables
from serve_app.cli.command import main
from serve_app.cli.job_tables import item_line, show_progress, status_line
from serve_app.client import ApiError, Client, ConnectionFailed
from serve_app.errors import NoSpace
from serve_app.schemas.jobs import JobFailure, JobResult, JobStatus
from tests.support.fake_jobs import FakeJobs, failure_of, result_of
from tests.support.stream_server import StreamServer, serve_streams


def test_a_status_line_has_the_counts_and_the_reasons() -> None:
    job = JobStatus(
        job_id="night", state="blocked", detail="no space", source="photos", items=10, succeeded=7, failed=2,
        errors={"undecodable": 2}, detections={"cat": 1, "person": 9}, created_at_s=0,
    )  # fmt: skip
    assert status_line(job) == (
        "night: blocked: no space; 7 of 10 items succeeded, 2 (2 undecodable) failed; 9 person, 1 cat"
    )


def test_an_item_line_has_the_detections_or_the_error() -> None:
    failure = JobFailure(job_id="night", item=3, name="a.jpg", id="x7", code="missing", detail="it is gone")
    assert item_line(failure) == "3 a.jpg (x7): missing: it is gone"
    image = {"width": 4, "height": 3}
    result = JobResult(
        job_id="night", item=4, name="day.mp4", time_s=1.5, count=0, detections=[], image=image, model="m"
    )
    assert item_line(result) == "4 day.mp4 at 1.50 s: nothing"


class Done(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def server() -> Iterator[StreamServer]:
    with serve_streams() as served:
        yield served


@pytest.fixture
def jobs(server: StreamServer, monkeypatch: pytest.MonkeyPatch) -> FakeJobs:
    """Return the server's jobs, of which there are none yet."""
    vars(server.jobs).update(vars(FakeJobs()))
    monkeypatch.setenv("SIGHTLINE_URL", server.url)
    return server.jobs


@pytest.fixture
def night(jobs: FakeJobs, server: StreamServer) -> FakeJobs:
    """Add the job ``night`` with one result and one failure."""
    server.http.post("/jobs", json={"id": "night", "source": {"type": "files", "path": "n"}}).raise_for_status()
    jobs.done["night"] = [result_of("night", 0), failure_of("night", 1)]
    return jobs


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs a command ``sightline jobs``."""

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["jobs", *map(str, arguments)])
        code, shown = ended.value.code, capsys.readouterr()
        return Done(1, shown.out, f"{shown.err}{code}") if isinstance(code, str) else Done(code or 0, *shown)

    return run


def test_a_job_is_submitted_once(run: Any, jobs: FakeJobs, tmp_path: Path) -> None:
    arguments = ("submit", tmp_path, "--id", "night", "--confidence", "0.3", "--classes", "cat,dog", "--format", "coco")
    for _ in range(2):
        assert run(*arguments) == Done(0, "night: queued; 0 of 0 items succeeded, 0 failed\n", "")
    spec = jobs.specs["night"]
    assert (spec.detect.confidence, spec.detect.classes, spec.outputs[0].formats) == (0.3, ["cat", "dog"], ["coco"])
    assert run(*arguments, "--crops") == Done(1, "", "job 'night' already exists")
    assert json.loads(run("submit", tmp_path, "--json").out)["job_id"].startswith("job-")


def test_the_images_of_a_folder_are_uploaded_and_watched_to_the_end(run: Any, jobs: FakeJobs, photos: Path) -> None:
    done = run("submit", photos, "--upload", "--watch", "--id", "up")
    assert (done.status, done.out) == (0, "up: completed; 0 of 0 items succeeded, 0 failed\n")
    assert jobs.uploads["up"] == {"a.jpg": b"1", "dock__b.PNG": b"1"}
    again = run("submit", photos, "--upload", "--watch", "--id", "up")
    assert (again.out, len(jobs.pieces)) == (done.out, 2)  # nothing is sent twice


def test_files_are_uploaded_with_the_settings_of_a_file(run: Any, jobs: FakeJobs, photos: Path, tmp_path: Path) -> None:
    spec = tmp_path / "night.yaml"
    spec.write_text(yaml.safe_dump({"id": "night", "weight": 2}))
    assert run("submit", photos, "--upload", "--spec", spec).status == 0
    assert (jobs.specs["night"].weight, list(jobs.uploads["night"])) == (2, ["a.jpg", "dock__b.PNG"])
    spec.write_text(yaml.safe_dump({"source": {"type": "files", "path": "a"}}))
    assert "has a source of its own" in run("submit", photos, "--upload", "--spec", spec).err
    assert run("submit", "--spec", spec).status == 0
    assert len(jobs.specs) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a SOURCE, or a file with --spec"),
        (["--upload"], "name a SOURCE"),
        (["--upload", "--spec", "night.yaml"], "name a SOURCE"),
        (["photos", "--spec", "night.yaml"], "leave out SOURCE, or send it with --upload"),
        (["--spec", "night.yaml", "--confidence", "0.3"], "write all settings of the job into the file"),
        (["--spec", "night.yaml", "--crops"], "write all settings of the job into the file"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(
    run: Any, jobs: FakeJobs, arguments: list[str], sentence: str
) -> None:
    done = run("submit", *arguments)
    assert (done.status, sentence in done.err, jobs.specs) == (2, True, {})


def test_files_that_are_refused_leave_no_job(run: Any, jobs: FakeJobs, tmp_path: Path) -> None:
    (tmp_path / "night.zip").touch()
    assert run("submit", tmp_path / "night.zip", "--upload").status == 1
    assert jobs.specs == {}


def test_an_upload_that_ends_early_says_how_to_continue(
    run: Any, jobs: FakeJobs, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put_file(*_: object, last: bool) -> None:
        raise NoSpace("jobs.max_disk_gib: full", limit="jobs.max_disk_gib")

    monkeypatch.setattr(jobs, "put_file", put_file)
    done = run("submit", photos, "--upload")
    (job_id,) = jobs.specs
    assert (done.status, done.err.endswith(f"repeat the command with --id {job_id}, or delete the job")) == (1, True)
    assert "a.jpg was not uploaded: jobs.max_disk_gib: full" in done.err


def test_jobs_are_listed_and_shown(run: Any, night: FakeJobs) -> None:
    assert "night" in run("list").out
    assert json.loads(run("list", "--state", "running", "--json").out) == []
    assert run("list", "--state", "typo").err.startswith("state: Input should be 'collecting', 'queued', ")
    assert json.loads(run("show", "night").out)["state"] == "queued"


def test_items_are_printed_one_on_each_line(run: Any, night: FakeJobs) -> None:
    failed = "1 1.jpg: undecodable: the image is corrupt\n"
    assert run("items", "night").out == f"0 0.jpg: dog 0.75\n{failed}"
    assert run("items", "night", "--failed").out == failed
    assert [json.loads(line)["item"] for line in run("items", "night", "--json").out.splitlines()] == [0, 1]


def test_results_are_saved_in_the_format_of_the_files_name(run: Any, night: FakeJobs, tmp_path: Path) -> None:
    assert "needs the end of the job" in run("results", "night", "--output", tmp_path / "a.json").err
    assert run("results", "night", "--output", tmp_path / "a.csv").status == 0  # the results so far
    assert (tmp_path / "a.csv").read_text().count("dog") == 1
    night.set_state("night", "completed")
    night.files["night", "coco"] = b"{}"
    saved = run("results", "night", "--output", tmp_path / "a.json")
    assert (saved.out, (tmp_path / "a.json").read_bytes()) == (
        f"the results were saved to {tmp_path / 'a.json'}\n",
        b"{}",
    )
    refused = run("results", "night", "--output", tmp_path / "none" / "a.csv")
    assert refused.err.startswith(f"--output: {tmp_path / 'none' / 'a.csv'} cannot be written")


def test_jobs_are_paused_resumed_cancelled_retried_and_deleted(run: Any, night: FakeJobs) -> None:
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert run(action, "night").out.startswith(f"night: {state}; ")
    assert run("pause", "night") == Done(1, "", "job 'night' has ended")
    assert run("resume", "night") == Done(1, "", "job 'night' has ended")
    assert run("retry", "night").out.startswith("night: running; ")
    assert run("retry", "night", "--code", "missing").status == 0
    assert [retry.items for retry in night.retried] == ["failed", ["missing"]]
    assert run("delete", "night") == Done(0, "job night was deleted\n", "")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_job_is_watched_to_its_end(run: Any, night: FakeJobs, more: list[str]) -> None:
    night.set_state("night", "running")
    night.set_state("night", "failed")
    done = run("watch", "night", *more)
    assert done.status == 1
    states = [json.loads(line)["state"] for line in done.out.splitlines()] if more else done.out.split()[1:2]
    assert states == (["queued", "running", "failed"] if more else ["failed;"])


COMMANDS = ("show", "watch", "items", "results", "cancel", "pause", "resume", "retry", "delete")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_job_is_one_sentence(run: Any, jobs: FakeJobs, tmp_path: Path, command: str) -> None:
    more = ["--output", tmp_path / "a.csv"] if command == "results" else []
    assert run(command, "none", *more) == Done(1, "", "job 'none' does not exist")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["submit", "list", *COMMANDS])
def test_without_a_server_each_command_says_so(run: Any, tmp_path: Path, command: str) -> None:
    arguments = {"results": ["night", "--output", tmp_path / "a.csv"], "list": []}.get(command, ["night"])
    done = run(command, *arguments, "--url", f"http://127.0.0.1:{free_port()}")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("no server responds at http://127.0.0.1:")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_restart_of_the_server_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    job = JobStatus(job_id="night", state="completed", source="photos", created_at_s=0)
    answers: list[JobStatus | Exception] = [
        job.model_copy(update={"state": "running"}),
        ConnectionFailed("no server responds"),
        ApiError("no replica is available", "unavailable", 503),
        job,
    ]

    def status(_: str) -> JobStatus:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client: Any = SimpleNamespace(jobs=SimpleNamespace(status=status))
    monkeypatch.setattr(job_tables, "_INTERVAL_S", 0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert show_progress(client, "night") == job
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("waiting for the server: no server responds\n") == 1


def test_an_error_that_waiting_does_not_mend_ends_the_watch(server: StreamServer, jobs: FakeJobs) -> None:
    with Client(server.url) as client, pytest.raises(ApiError, match="does not exist"):
        show_progress(client, "none")

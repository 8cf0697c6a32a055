"""Tests of the files of all jobs: their quota, and the files of results."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import NoSpace
from serve_app.jobs import files as job_files
from serve_app.jobs.files import JobFiles
from serve_app.jobs.outputs import OutputFile
from serve_app.jobs.store import Job
from tests.support.job_stores import spec

NO_RESULTS: Any = None  # the tests replace the function that reads them


@pytest.fixture
def always_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every check measure the used space."""
    monkeypatch.setattr(job_files, "_MAX_AGE_S", 0.0)
    monkeypatch.setattr(job_files, "_MAX_AGE_IF_FULL_S", 0.0)
    monkeypatch.setattr(job_files, "_AGE_PER_MEASURING_S", 0.0)


def test_uploads_of_all_jobs_count_against_one_quota(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, 30_000, lambda: 0)
    files.put("a", "1.jpg", 0, bytes(10_000), last=True)
    with pytest.raises(NoSpace) as refusal:
        files.put("b", "1.jpg", 0, bytes(25_000), last=True)
    assert refusal.value.limit == "jobs.max_disk_gib"
    files.trash("a")
    files.empty_trash()
    files.put("b", "1.jpg", 0, bytes(15_000), last=True)


def test_what_an_earlier_process_left_counts(tmp_path: Path) -> None:
    (tmp_path / "a/results").mkdir(parents=True)
    (tmp_path / "a/results/results.jsonl").write_bytes(bytes(50_000))
    with pytest.raises(NoSpace):
        JobFiles(tmp_path, 40_000, lambda: 0).check_space()


def test_the_size_of_the_store_counts(tmp_path: Path) -> None:
    JobFiles(tmp_path, 40_000, lambda: 40_000).check_space()
    with pytest.raises(NoSpace):
        JobFiles(tmp_path, 40_000, lambda: 40_001).check_space()


def test_space_that_was_freed_by_others_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_files, "_MAX_AGE_IF_FULL_S", 0.0)
    monkeypatch.setattr(job_files, "_AGE_PER_MEASURING_S", 0.0)
    part = tmp_path / "a/unpacked.tar.part"
    part.parent.mkdir()
    part.write_bytes(bytes(50_000))
    files = JobFiles(tmp_path, 40_000, lambda: 0)
    with pytest.raises(NoSpace):
        files.check_space()
    part.unlink()
    files.check_space()


@pytest.mark.usefixtures("always_measured")
def test_files_that_runners_write_count_after_a_while(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, 40_000, lambda: 0)
    files.check_space()
    (tmp_path / "a/results/crops").mkdir(parents=True)
    (tmp_path / "a/results/crops/1.jpg").write_bytes(bytes(50_000))
    with pytest.raises(NoSpace):
        files.check_space()


def test_the_space_is_not_measured_at_each_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = JobFiles(tmp_path, 20_000, lambda: 0)
    files.put("a", "1.jpg", 0, bytes(10_000), last=True)

    def measure_again(entry: object) -> int:
        raise AssertionError("it was measured a moment ago")

    monkeypatch.setattr(job_files, "_size", measure_again)
    monkeypatch.setattr(job_files, "_MAX_AGE_IF_FULL_S", 3600.0)
    files.put("a", "2.jpg", 0, bytes(1000), last=True)
    with pytest.raises(NoSpace):
        files.check_space(10_000)


@pytest.mark.usefixtures("always_measured")
def test_a_job_that_is_deleted_during_the_measurement_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job in "abc":
        (tmp_path / job / "uploads").mkdir(parents=True)
        (tmp_path / job / "uploads/1.jpg").write_bytes(bytes(30_000))
    measure, deleted = job_files._size, list[str]()

    def delete_and_measure(entry: Any) -> int:
        if entry.name == "1.jpg" and not deleted:
            deleted.extend({"a", "b", "c"} - {Path(entry).parent.parent.name})
            for job in deleted:
                shutil.rmtree(tmp_path / job)
        return measure(entry)

    monkeypatch.setattr(job_files, "_size", delete_and_measure)
    JobFiles(tmp_path, 60_000, lambda: 0).check_space()
    assert len(deleted) == 2


def test_a_deletion_during_the_measurement_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = JobFiles(tmp_path, 40_000, lambda: 0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(bytes(50_000))
    measure = job_files._size

    def measure_and_delete(entry: Any) -> int:
        size = measure(entry)
        if entry.name == "1.jpg":
            files.trash("a")
            files.empty_trash()
        return size

    monkeypatch.setattr(job_files, "_size", measure_and_delete)
    files.check_space()


# Files of results


class Overtaken(str):
    """A job's id. Each time that it is compared, a file of another job is made, as if by another thread."""

    made: dict[tuple[str, str], Any]

    def __eq__(self, other: object) -> bool:
        self.made[f"job-{len(self.made)}", "csv"] = None
        return str(self) == str(other)

    __hash__ = str.__hash__


def test_files_of_results_may_be_made_while_a_job_is_removed(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, 10**6, lambda: 0)
    made: dict[Any, Any] = files._made
    made["night", "csv"] = made["day", "csv"] = None
    job_id = Overtaken("night")
    job_id.made = made
    files.trash(job_id)
    assert ("night", "csv") not in made
    assert ("day", "csv") in made


class SlowMaker:
    """Makes files of results in threads that wait for ``may_end``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_end = threading.Event()
        self.is_busy = threading.Event()
        self.made = 0
        self.running = 0
        self.most_running = 0
        monkeypatch.setattr(job_files, "write_format", self._write)

    def _write(self, kind: str, results: object, path: Path) -> OutputFile:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.is_busy.set()
        assert self.may_end.wait(30)
        self.made += 1
        self.running -= 1
        path.write_text(f"version {self.made}")
        return OutputFile(path.name, path.stat().st_size, f"hash {self.made}")


@pytest.mark.anyio
async def test_clients_that_leave_again_and_again_start_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, files = SlowMaker(monkeypatch), JobFiles(tmp_path, 10**6, lambda: 0)
    job = Job(spec(), None, "dock", "completed")
    for _ in range(3):
        call = asyncio.create_task(files.results(job, "jsonl", NO_RESULTS))
        await asyncio.to_thread(maker.is_busy.wait, 30)
        await asyncio.sleep(0.05)  # so that a second thread would have begun
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
    assert maker.running == 1
    maker.may_end.set()
    assert (await files.results(job, "jsonl", NO_RESULTS)).sha256 == "hash 1"
    assert (maker.made, maker.most_running) == (1, 1)


@pytest.mark.anyio
async def test_a_file_is_never_replaced_by_one_of_an_earlier_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, files = SlowMaker(monkeypatch), JobFiles(tmp_path, 10**6, lambda: 0)
    early = asyncio.create_task(files.results(Job(spec(), None, "dock", "completed"), "jsonl", NO_RESULTS))
    await asyncio.to_thread(maker.is_busy.wait, 30)
    early.cancel()
    await asyncio.wait([early])
    late = asyncio.create_task(files.results(Job(spec(), None, "dock", "completed", succeeded=1), "jsonl", NO_RESULTS))
    await asyncio.sleep(0.05)
    assert maker.running == 1
    maker.may_end.set()
    assert (await late).sha256 == "hash 2"
    assert files.read("night", "jsonl", 0, 100) == b"version 2"

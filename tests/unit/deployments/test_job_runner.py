from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import serve

from serve_app.config import parse_args
from serve_app.deployments.job_runner import JobRunner
from serve_app.errors import ModelChanged
from serve_app.ipc.dev_shm import FOLDER, PREFIX
from serve_app.jobs.units import Item, Unit
from serve_app.schemas.jobs import FilesSource, JobSpec, OutputSpec
from tests.support import squares
from tests.support.fake_replicas import FakeHandle
from tests.support.job_runners import FolderSource

pytestmark = pytest.mark.anyio

SPEC = JobSpec(id="night", source=FilesSource(type="files", path="in"))
UNIT = Unit("night", number=0, attempt=1, first=7, items=(Item("a.jpg"),))


@asynccontextmanager
async def job_runner(handle: FakeHandle, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[JobRunner]:
    """Make a replica whose jobs read the files of ``folder``."""

    class JobRunnerWithoutCleanup(JobRunner):
        def __del__(self) -> None:  # type: ignore[override]  # only Serve can await the real one
            pass

    monkeypatch.setattr(os, "nice", lambda increment: increment)  # it would lower the priority of the tests' process
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(app_name="dock"))
    made = JobRunnerWithoutCleanup.__new__(JobRunnerWithoutCleanup)
    args = parse_args({"streams": {"state_dir": str(folder)}})
    await JobRunner.__init__(made, {"default": handle}, args, FakeHandle())
    made._runner._jobs._opener = lambda *_: FolderSource(folder)
    (folder / "a.jpg").write_bytes(squares.encode(squares.picture([])))
    try:
        yield made
    finally:
        await made._runner.close()


async def test_the_requests_of_a_unit_are_those_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = FakeHandle()
    async with job_runner(handle, tmp_path, monkeypatch) as made:
        result = await made.run(UNIT, SPEC, "v1")
        assert [number for number, _ in result.results] == [7]
        assert [(request.traffic, request.tenant) for request in handle.requests] == [("job", "night")]


async def test_a_replica_without_work_calls_no_detector_and_needs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise AssertionError

    def pools() -> set[str]:
        return {name for name in os.listdir(FOLDER) if name.startswith(PREFIX)}

    before = pools()
    handle = FakeHandle()
    handle.state = SimpleNamespace(remote=fail)
    async with job_runner(handle, tmp_path, monkeypatch) as made:
        await made.check_health()
        assert pools() <= before


async def test_a_changed_model_is_answered_as_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with job_runner(FakeHandle(), tmp_path, monkeypatch) as made:
        assert isinstance(await made.run(UNIT, SPEC, "v0"), ModelChanged)


async def test_a_job_has_a_folder_of_its_own_in_the_state_of_its_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with job_runner(FakeHandle(), tmp_path, monkeypatch) as made:
        spec = SPEC.model_copy(update={"outputs": [OutputSpec(annotated=True)]})
        await made.run(UNIT, spec, None)
        assert (tmp_path / "dock" / "jobs" / "night" / "results" / "annotated" / "000000007.jpg").is_file()


async def test_the_image_of_an_item_is_a_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with job_runner(FakeHandle(), tmp_path, monkeypatch) as made:
        assert (await made.picture(UNIT, SPEC, 7, None)).startswith(b"\xff\xd8")

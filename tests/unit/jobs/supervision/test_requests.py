"""Tests of the requests of clients, with a real store and a real folder, and with fake runners."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    NotFinished,
    NotFound,
    Overloaded,
    ReplicaDied,
    SourceError,
)
from serve_app.schemas.jobs import JobSpec, Retry
from serve_app.types import Principal
from tests.support.fake_runners import (
    ADMIN,
    FakeRunners,
    args_of,
    ended,
    result_of,
    spec_of,
    status_when,
    supervision_of,
)

pytestmark = pytest.mark.anyio

ANN, BOB = Principal("ann", is_admin=False), Principal("bob", is_admin=False)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"source": {"type": "files", "path": "/etc"}}, SourceError),
        ({"detect": {"model": "plates"}}, InvalidParameter),
        ({"sinks": [{"type": "webhook", "url": "http://127.0.0.1/"}]}, InvalidParameter),
    ],
    ids=["source", "model", "sink"],
)
async def test_a_job_that_cannot_work_is_refused(
    tmp_path: Path, fields: dict[str, Any], error: type[Exception]
) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        with pytest.raises(error):
            await supervision.create(spec_of(tmp_path, 1, **fields), ADMIN)
        assert (await supervision.all(ADMIN, state=None, tag=None, after=None, limit=9)).jobs == []


async def test_only_its_owner_and_an_administrator_see_a_job(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 1), ANN)
        await ended(supervision)
        for call in (
            supervision.status("night", BOB),
            supervision.items("night", BOB, state=None, after=None, limit=1),
            supervision.cancel("night", BOB),
            supervision.pause("night", BOB),
            supervision.resume("night", BOB),
            supervision.retry("night", BOB, Retry()),
            supervision.delete("night", BOB),
            supervision.set_owner("night", BOB, "bob"),
            supervision.results("night", BOB, "jsonl"),
            supervision.read_results("night", BOB, "jsonl", 0, 1),
            supervision.put_file("night", BOB, "a.jpg", 0, b"", last=True),
            supervision.start("night", BOB),
            supervision.picture("night", BOB, 0, boxes=False),
            supervision.events("night", BOB, None, 0),
        ):
            with pytest.raises(NotFound, match=r"^job 'night' does not exist$"):
                await call
        with pytest.raises(NotFound, match=r"^job 'none' does not exist$"):
            await supervision.status("none", BOB)
        with pytest.raises(Conflict):
            await supervision.create(spec_of(tmp_path, 1), BOB)
        with pytest.raises(Conflict):
            await supervision.put(spec_of(tmp_path, 1), BOB)
        listed = [await supervision.all(who, state=None, tag=None, after=None, limit=9) for who in (ANN, BOB, ADMIN)]
        assert [len(one.jobs) for one in listed] == [1, 0, 1]
        assert (await supervision.status("night", ANN)).owner == "ann"


async def test_only_an_administrator_gives_a_job_an_owner(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 1), ADMIN)
        with pytest.raises(Forbidden):
            await supervision.set_owner("night", ANN, "ann")
        assert (await supervision.set_owner("night", ADMIN, "ann")).owner == "ann"
        with pytest.raises(NotFound):
            await supervision.status("night", BOB)


async def test_the_same_job_is_put_once(tmp_path: Path) -> None:
    runners = FakeRunners()
    runners.gate.clear()
    async with supervision_of(tmp_path, runners) as supervision:
        spec = spec_of(tmp_path, 3)
        assert (await supervision.put(spec, ADMIN))[1]
        await supervision.pause("night", ADMIN)
        assert not (await supervision.put(spec, ADMIN))[1]
        with pytest.raises(Conflict):
            await supervision.put(spec_of(tmp_path, 3, weight=2), ADMIN)


async def test_a_job_that_has_ended_is_neither_paused_nor_resumed(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 3), ADMIN)
        status = await ended(supervision)
        for change in (supervision.pause, supervision.resume):
            with pytest.raises(Conflict, match="has ended"):
                await change("night", ADMIN)
        assert await supervision.status("night", ADMIN) == status


async def test_there_are_limits_of_unfinished_jobs(tmp_path: Path) -> None:
    runners = FakeRunners()
    runners.gate.clear()
    args = args_of(tmp_path, jobs={"max_jobs": 3, "max_open_per_key": 1})
    async with supervision_of(tmp_path, runners, args) as supervision:
        await supervision.create(spec_of(tmp_path, 1, "a"), ANN)
        with pytest.raises(Overloaded) as refusal:
            await supervision.create(spec_of(tmp_path, 1, "b"), ANN)
        assert refusal.value.limit == "jobs.max_open_per_key"
        await supervision.create(spec_of(tmp_path, 1, "b"), ADMIN)
        await supervision.create(spec_of(tmp_path, 1, "c"), ADMIN)
        with pytest.raises(Overloaded) as refusal:
            await supervision.create(spec_of(tmp_path, 1, "d"), ADMIN)
        assert refusal.value.limit == "jobs.max_jobs"


async def test_jobs_are_listed_in_pages_the_newest_first(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        for number in range(3):
            await supervision.create(spec_of(tmp_path, 1, f"job-{number}"), ADMIN)
        page = await supervision.all(ADMIN, state=None, tag=None, after=None, limit=2)
        assert ([job.job_id for job in page.jobs], page.next) == (["job-2", "job-1"], "job-1")
        page = await supervision.all(ADMIN, state=None, tag=None, after=page.next, limit=2)
        assert ([job.job_id for job in page.jobs], page.next) == (["job-0"], None)


async def test_a_deleted_job_is_forgotten_with_its_files(tmp_path: Path) -> None:
    runners = FakeRunners()
    runners.gate.clear()
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        await status_when(supervision, lambda status: status.in_flight)
        (tmp_path / "state/jobs/night").mkdir(parents=True, exist_ok=True)
        await supervision.delete("night", ADMIN)
        assert not (tmp_path / "state/jobs/night").exists()
        with pytest.raises(NotFound):
            await supervision.status("night", ADMIN)
        assert runners.cancelled
        await supervision.create(spec_of(tmp_path, 10), ADMIN)  # the id is free


async def test_uploaded_files_are_the_items_of_a_job(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        spec = JobSpec.model_validate({"id": "night", "source": {"type": "upload"}})
        assert (await supervision.create(spec, ADMIN)).state == "collecting"
        for name in ("b.jpg", "a.jpg"):
            await supervision.put_file("night", ADMIN, name, 0, b"ab", last=False)
            await supervision.put_file("night", ADMIN, name, 2, b"cd", last=True)
        await supervision.start("night", ADMIN)
        with pytest.raises(Conflict):
            await supervision.start("night", ADMIN)
        status = await ended(supervision)
        assert (status.state, status.succeeded) == ("completed", 2)
        with pytest.raises(Conflict):
            await supervision.put_file("night", ADMIN, "c.jpg", 0, b"", last=True)


async def test_results_are_read_in_pieces_when_the_job_has_ended(tmp_path: Path) -> None:
    runners = FakeRunners()
    runners.gate.clear()
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 600), ADMIN)
        with pytest.raises(NotFinished):
            await supervision.results("night", ADMIN, "jsonl")
        runners.gate.set()
        await ended(supervision)
        info = await supervision.results("night", ADMIN, "jsonl")
        assert await supervision.results("night", ADMIN, "jsonl") == info
        pieces = [
            await supervision.read_results("night", ADMIN, "jsonl", offset, 1000)
            for offset in range(0, info.size_bytes, 1000)
        ]
        text = b"".join(pieces)
        assert len(text) == info.size_bytes
        assert text.count(b"\n") == 600


async def test_the_image_of_an_item_comes_from_a_runner(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 3), ADMIN)
        await ended(supervision)
        assert await supervision.picture("night", ADMIN, 1, boxes=True) == b"0 1 boxes"
        assert await supervision.picture("night", ADMIN, 1, boxes=False) == b"0 1 plain"
        with pytest.raises(NotFound):
            await supervision.picture("night", ADMIN, 3, boxes=False)


async def test_a_change_is_finished_even_if_its_caller_leaves(tmp_path: Path) -> None:
    runners = FakeRunners()
    runners.gate.clear()
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        await status_when(supervision, lambda status: status.in_flight)
        call = asyncio.create_task(supervision.cancel("night", ADMIN))
        await asyncio.sleep(0)
        call.cancel()
        assert (await ended(supervision)).state == "cancelled"


async def test_the_metrics_count_items_by_outcome_and_repeated_units(tmp_path: Path) -> None:
    records: list[tuple[str, float, dict[str, str]]] = []
    deaths = [ReplicaDied("it died")]
    failing = frozenset({"00001.jpg"})
    runners = FakeRunners(lambda unit: deaths.pop() if deaths else result_of(unit, failing=failing))
    async with supervision_of(tmp_path, runners, records=records) as supervision:
        await supervision.create(spec_of(tmp_path, 40), ADMIN)
        await ended(supervision)
    done = [(tags["outcome"], value) for name, value, tags in records if name == "job_items_done"]
    assert sum(value for outcome, value in done if outcome == "succeeded") == 39
    assert sum(value for outcome, value in done if outcome == "missing") == 1
    assert [value for name, value, _ in records if name == "job_units_repeated"] == [1]

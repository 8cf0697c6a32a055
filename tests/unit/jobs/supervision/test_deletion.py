"""Tests of the deletion of jobs, whose ids may be used again at once."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import NoSpace, Unavailable
from serve_app.jobs import removal
from serve_app.jobs.store import JobStore
from serve_app.jobs.supervision import Supervision
from serve_app.schemas.jobs import JobSpec, Retry
from tests.support.fake_runners import (
    ADMIN,
    FakeRunners,
    StubbornRunners,
    args_of,
    ended,
    spec_of,
    status_when,
    supervision_of,
)
from tests.support.receiver import Receiver, answer

pytestmark = pytest.mark.anyio

UPLOAD = JobSpec.model_validate({"id": "night", "source": {"type": "upload"}})


class KilledStore(JobStore):
    """A store whose process is killed, as far as the caller can see, just after a job was deleted."""

    def delete(self, job_id: str) -> None:
        super().delete(job_id)
        raise Unavailable("the supervisor was killed")


class FullStore(JobStore):
    """A store that has no space for the first deletion."""

    is_full = True

    def delete(self, job_id: str) -> None:
        if self.is_full:
            self.is_full = False
            raise NoSpace("the disk is full")
        super().delete(job_id)


class SlowStore(JobStore):
    """A store that measures its size only when ``gate`` is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = threading.Event()
        self.gate.set()
        self.is_measuring = threading.Event()

    def size_bytes(self) -> int:
        if not self.gate.is_set():
            self.is_measuring.set()
            assert self.gate.wait(60)
        return super().size_bytes()


class EarlyStore(JobStore):
    """A store that is ``ahead_s`` seconds ahead of the time."""

    ahead_s = 0.0

    def expire(self, now_s: float) -> list[str]:
        return super().expire(now_s + self.ahead_s)


async def upload(supervision: Supervision, *names: str) -> None:
    await supervision.create(UPLOAD, ADMIN)
    for name in names:
        await supervision.put_file("night", ADMIN, name, 0, b"a", last=True)


async def test_a_job_has_none_of_the_files_of_a_job_whose_deletion_was_interrupted(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners(), store=KilledStore(tmp_path / "state")) as supervision:
        await upload(supervision, "a.jpg", "b.jpg")
        with pytest.raises(Unavailable):
            await supervision.delete("night", ADMIN)
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await upload(supervision, "c.jpg")
        await supervision.start("night", ADMIN)
        assert (await ended(supervision)).items == 1


async def test_the_files_of_all_jobs_are_kept_if_someone_has_moved_the_store_away(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await upload(supervision, "a.jpg")
    for file in (tmp_path / "state").glob("jobs.sqlite*"):
        file.rename(tmp_path / file.name)
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 1, "other"), ADMIN)
        assert (tmp_path / "state/jobs/night/uploads/a.jpg").exists()
        await upload(supervision, "b.jpg")
        await supervision.start("night", ADMIN)
        assert (await ended(supervision)).items == 1


async def test_the_next_supervision_keeps_the_files_of_jobs_that_exist(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await upload(supervision, "a.jpg", "b.jpg")
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.start("night", ADMIN)
        assert (await ended(supervision)).succeeded == 2


async def test_a_job_keeps_its_files_while_those_of_an_older_one_with_its_id_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, is_deleting, delete = threading.Event(), threading.Event(), shutil.rmtree

    def delete_slowly(*args: Any, **options: Any) -> None:
        is_deleting.set()
        assert gate.wait(60)
        delete(*args, **options)

    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await upload(supervision, "a.jpg", "b.jpg")
        monkeypatch.setattr(shutil, "rmtree", delete_slowly)
        deletion = asyncio.create_task(supervision.delete("night", ADMIN))
        assert await asyncio.to_thread(is_deleting.wait, 60)
        await upload(supervision, "c.jpg")
        gate.set()
        await deletion
        await supervision.start("night", ADMIN)
        status = await ended(supervision)
        assert (status.state, status.succeeded) == ("completed", 1)
    assert [path.name for path in (tmp_path / "state/jobs").iterdir()] == ["night"]


async def test_a_file_that_is_being_uploaded_does_not_outlive_its_job(tmp_path: Path) -> None:
    store = SlowStore(tmp_path / "state")
    async with supervision_of(tmp_path, FakeRunners(), store=store) as supervision:
        await supervision.create(UPLOAD, ADMIN)
        store.gate.clear()
        put = asyncio.create_task(supervision.put_file("night", ADMIN, "a.jpg", 0, b"a", last=True))
        assert await asyncio.to_thread(store.is_measuring.wait, 60)
        deletion = asyncio.create_task(supervision.delete("night", ADMIN))
        await asyncio.wait({deletion}, timeout=0.3)  # it could end now if it did not wait for the file
        store.gate.set()
        await asyncio.gather(put, deletion)
    assert not (tmp_path / "state/jobs/night").exists()


async def test_a_file_that_is_being_uploaded_when_the_job_starts_is_one_of_its_items(tmp_path: Path) -> None:
    store = SlowStore(tmp_path / "state")
    async with supervision_of(tmp_path, FakeRunners(), store=store) as supervision:
        await upload(supervision, "a.jpg")
        store.gate.clear()
        put = asyncio.create_task(supervision.put_file("night", ADMIN, "b.jpg", 0, b"a", last=True))
        assert await asyncio.to_thread(store.is_measuring.wait, 60)
        start = asyncio.create_task(supervision.start("night", ADMIN))
        await asyncio.wait({start}, timeout=0.3)  # it could list the files now if it did not wait for this one
        store.gate.set()
        await asyncio.gather(put, start)
        assert (await ended(supervision)).items == 2


async def test_a_job_that_cannot_be_deleted_is_continued(tmp_path: Path) -> None:
    runners = FakeRunners()
    runners.gate.clear()
    async with supervision_of(tmp_path, runners, store=FullStore(tmp_path / "state")) as supervision:
        await supervision.create(spec_of(tmp_path, 100), ADMIN)
        await status_when(supervision, lambda status: status.in_flight)
        with pytest.raises(NoSpace):
            await supervision.delete("night", ADMIN)
        runners.gate.set()
        status = await ended(supervision)
        assert (status.state, status.succeeded) == ("completed", 100)
        await supervision.delete("night", ADMIN)


async def test_a_retry_during_the_deletion_leaves_nothing_of_the_job(tmp_path: Path) -> None:
    runners = StubbornRunners()
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 200), ADMIN)
        await asyncio.wait_for(runners.is_held.wait(), 60)
        await status_when(supervision, lambda status: status.state == "running")
        deletion = asyncio.create_task(supervision.delete("night", ADMIN))
        while not runners.cancelled:
            await asyncio.sleep(0.01)
        await supervision.retry("night", ADMIN, Retry())
        runners.leave.set()
        await deletion
        assert supervision._board.works == {}


async def test_a_webhook_that_does_not_answer_is_no_longer_called_when_its_job_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "_EXPIRY_INTERVAL_S", 0.1)
    receiver = Receiver()
    receiver.answers = [answer(500)] * 1000
    await receiver.start()
    store = EarlyStore(tmp_path / "state")
    args = args_of(tmp_path, outbound={"allowed_networks": "127.0.0.0/8"})
    sink = {"type": "webhook", "url": f"http://127.0.0.1:{receiver.port}/"}
    async with supervision_of(tmp_path, FakeRunners(), args, store=store) as supervision:
        await supervision.create(spec_of(tmp_path, 10, sinks=[sink]), ADMIN)
        assert (await ended(supervision)).sinks
        store.ahead_s = 1_000_000.0
        status = await status_when(supervision, lambda status: status.state == "expired")
        assert (await status_when(supervision, lambda status: not status.sinks)).succeeded == status.succeeded
    await receiver.stop()

"""Tests of the tasks of a Celery queue, with a real store and with fake runners. Celery itself is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config import AppArgs
from serve_app.errors import NotFound
from serve_app.jobs.celery_intake import Intake
from serve_app.jobs.celery_tasks import DETECT, JOB
from serve_app.jobs.supervision import Supervision
from serve_app.schemas.jobs import AT_REST
from tests.support.fake_runners import ADMIN, FakeRunners, args_of, spec_of, status_when, supervision_of

pytestmark = pytest.mark.anyio


def intake_of(supervision: Supervision, owner: str) -> Intake:
    return Intake(supervision, supervision.ledger.store, owner)


async def take(intake: Intake, supervision: Supervision, task_id: str, folder: Path) -> None:
    """Take a task for one image, and wait until its job has ended."""
    await intake.take(task_id, DETECT, {"url": str(folder / "in/night/00000.jpg")})
    await status_when(supervision, lambda status: status.state in AT_REST, task_id)


def args(folder: Path) -> AppArgs:
    spec_of(folder, 1)  # creates the image
    return args_of(folder)


async def test_tasks_of_an_earlier_owner_hold_up_no_results(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners(), args(tmp_path)) as supervision:
        await take(intake_of(supervision, "old-shop"), supervision, "first", tmp_path)
        intake = intake_of(supervision, "new-shop")
        await take(intake, supervision, "second", tmp_path)
        finished = await intake.finished(5)
        assert [(task.task_id, task.succeeded) for task in finished] == [("first", True), ("second", True)]
        await intake.forget([task.task_id for task in finished])
        assert await intake.finished(0.01) == []
        for task_id in ("first", "second"):  # the jobs of single images are deleted with their results
            with pytest.raises(NotFound):
                await supervision.status(task_id, ADMIN)


async def test_a_task_whose_job_was_deleted_fails_and_holds_up_no_other(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners(), args(tmp_path)) as supervision:
        intake = intake_of(supervision, "shop")
        for task_id in ("first", "second"):
            await take(intake, supervision, task_id, tmp_path)
        await supervision.delete("first", ADMIN)
        finished = await intake.finished(5)
        assert [(task.task_id, task.problem) for task in finished] == [
            ("first", "not_found: the job was deleted"),
            ("second", ""),
        ]


async def test_a_task_for_a_whole_job_returns_its_status(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners(), args(tmp_path)) as supervision:
        intake = intake_of(supervision, "shop")
        await intake.take("whole", JOB, {"job": {"source": {"type": "files", "path": str(tmp_path / "in/night")}}})
        await status_when(supervision, lambda status: status.state in AT_REST, "whole")
        (task,) = await intake.finished(5)
        assert (task.task_id, task.succeeded) == ("whole", True)
        assert '"state":"completed"' in task.result

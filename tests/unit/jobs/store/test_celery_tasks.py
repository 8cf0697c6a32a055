"""Tests of the tasks of a Celery queue in the store."""

from __future__ import annotations

from serve_app.jobs.celery_tasks import DETECT
from serve_app.jobs.store import JobStore, TaskRow
from serve_app.schemas.jobs import JobSpec

DAY_S = 86_400.0


def add(store: JobStore, job_id: str, now_s: float = 0.0) -> None:
    spec = JobSpec.model_validate({"id": job_id, "source": {"type": "files", "path": "a.jpg"}})
    store.create(spec, owner=None, source="a.jpg", state="queued", now_s=now_s, task=(f"task {job_id}", DETECT))


def test_a_task_is_finished_when_its_job_is_at_rest(store: JobStore) -> None:
    add(store, "a", 1.0)
    add(store, "b", 2.0)
    assert store.finished_tasks(10) == []
    store.set_state("b", "failed", 3.0)
    store.set_state("a", "completed", 4.0)
    assert store.finished_tasks(10) == [TaskRow("task a", DETECT, "a"), TaskRow("task b", DETECT, "b")]
    assert store.finished_tasks(1) == [TaskRow("task a", DETECT, "a")]


def test_a_task_whose_result_was_sent_is_still_recognised(store: JobStore) -> None:
    add(store, "a")
    store.set_state("a", "completed", 1.0)
    store.set_tasks_sent(["task a", "unknown"])
    assert store.finished_tasks(10) == []
    assert store.has_task("task a")
    store.expire(DAY_S - 1)
    assert store.has_task("task a")
    store.expire(DAY_S + 1)
    assert not store.has_task("task a")


def test_a_task_whose_job_was_deleted_is_finished(store: JobStore) -> None:
    add(store, "a")
    store.delete("a")
    assert store.finished_tasks(10) == [TaskRow("task a", DETECT, None)]


def test_a_task_that_was_not_sent_and_its_job_are_never_forgotten(store: JobStore) -> None:
    add(store, "a")
    store.set_state("a", "completed", 1.0)
    assert store.expire(100 * DAY_S) == []
    assert store.job("a").state == "completed"
    store.set_tasks_sent(["task a"])
    assert store.expire(100 * DAY_S) == ["a"]

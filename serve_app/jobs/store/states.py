"""The states of the jobs: how a job changes its state, is tried again, expires and is forgotten."""

from __future__ import annotations

from collections.abc import Collection

from serve_app.errors import Conflict
from serve_app.jobs.store import events, jobs, units
from serve_app.jobs.store.database import Database
from serve_app.jobs.store.records import storable
from serve_app.jobs.store.schema import TABLES, WORK_TABLES
from serve_app.schemas.jobs import AT_REST, JobState, JobStateChange

COUNTERS_KEPT_S = 30 * 86_400  # how long an expired job's counters are kept

_MAX_EXPIRED = 100  # jobs that one call of `expire` handles, so that it does not take too long


def change(db: Database, job_id: str, state: JobState, now_s: float, detail: str = "") -> None:
    """Change a job's state, and add an event of type ``state``, unless the job has this state and detail."""
    row = db.one("SELECT job, state, detail, started_at_s FROM jobs WHERE id = ?", (job_id,))
    if row is None:
        raise jobs.unknown(job_id)
    detail = storable(detail)
    if (row["state"], row["detail"]) == (state, detail):
        return
    started_at_s = now_s if state == "running" and row["started_at_s"] is None else row["started_at_s"]
    db.execute(
        "UPDATE jobs SET state = ?, detail = ?, started_at_s = ?, version = version + 1 WHERE job = ?",
        (state, detail, started_at_s, row["job"]),
    )
    if state not in AT_REST:
        db.execute("UPDATE jobs SET finished_at_s = NULL, expires_at_s = NULL WHERE job = ?", (row["job"],))
    elif row["state"] not in AT_REST:
        units.take_back(db, row["job"])
        expires_at_s = now_s + jobs.read(db, job_id).spec.expires_after_s
        db.execute(
            "UPDATE jobs SET finished_at_s = ?, expires_at_s = ? WHERE job = ?", (now_s, expires_at_s, row["job"])
        )
    body = JobStateChange(state=state, previous=row["state"], detail=detail)
    events.add(db, job_id, "state", body.model_dump_json(), now_s)


def retry(db: Database, job_id: str, codes: Collection[str] | None, now_s: float) -> None:
    """Open the units of failed items again, and set the job's state to ``running``, even if it was paused before."""
    job = jobs.number_of_kept(db, job_id)
    before = jobs.read(db, job_id)
    state = before.state
    if state != "running" and state not in AT_REST:
        raise Conflict(f"job {job_id!r} is {state}; retry its items when it is running or has ended")
    if before.spec.paused:
        jobs.set_paused(db, job_id, False)
    units.reopen_failed(db, job, codes)
    change(db, job_id, "running", now_s)


def expire(db: Database, now_s: float) -> list[str]:
    """Forget what belongs to jobs whose time is over, and return their ids."""
    over = "SELECT job, id FROM jobs WHERE expires_at_s <= ? AND state {} 'expired' {} ORDER BY expires_at_s LIMIT ?"
    forgotten = db.execute(over.format("=", ""), (now_s - COUNTERS_KEPT_S, _MAX_EXPIRED)).fetchall()
    for row in forgotten:
        _delete(db, row["job"], TABLES)
    # If the result of a Celery task was not sent yet, its job is kept: the task's sender may still wait for it.
    is_sent = "AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.job = jobs.job AND sent = 0)"
    expired = db.execute(over.format("!=", is_sent), (now_s, _MAX_EXPIRED)).fetchall()
    for row in expired:
        _delete(db, row["job"], WORK_TABLES)
        change(db, row["id"], "expired", now_s)
    return [row["id"] for row in (*forgotten, *expired)]


def forget(db: Database, job_id: str) -> None:
    """Forget a job and all that belongs to it."""
    _delete(db, jobs.number_of(db, job_id), TABLES)


def _delete(db: Database, job: int, tables: Collection[str]) -> None:
    for table in tables:
        db.execute(f"DELETE FROM {table} WHERE job = ?", (job,))

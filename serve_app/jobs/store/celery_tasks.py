"""The tasks of a Celery queue, whose results are still to be sent."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.jobs.store import jobs
from serve_app.jobs.store.database import Database
from serve_app.jobs.store.records import TaskRow
from serve_app.schemas.jobs import AT_REST

# A queue may deliver a task again, even after its result was sent. For this time, the task is recognised.
_KEPT_S = 86_400.0


def insert(db: Database, task_id: str, kind: str, job_id: str, now_s: float) -> None:
    """Note that a job comes from a task."""
    db.execute(
        "INSERT INTO tasks (task_id, kind, job, taken_at_s) VALUES (?, ?, ?, ?)",
        (task_id, kind, jobs.number_of(db, job_id), now_s),
    )


def exists(db: Database, task_id: str) -> bool:
    """Return whether a task was stored before."""
    return db.one("SELECT 1 FROM tasks WHERE task_id = ?", (task_id,)) is not None


def finished(db: Database, limit: int) -> list[TaskRow]:
    """Return tasks whose jobs are at rest or were deleted, and whose results were not sent, the oldest first."""
    at_rest = ", ".join(repr(state) for state in sorted(AT_REST))
    rows = db.execute(
        "SELECT task_id, kind, id FROM tasks LEFT JOIN jobs USING (job) "
        f"WHERE sent = 0 AND (state IS NULL OR state IN ({at_rest})) ORDER BY taken_at_s LIMIT ?",
        (limit,),
    )
    return [TaskRow(row["task_id"], row["kind"], row["id"]) for row in rows]


def set_sent(db: Database, task_ids: Sequence[str]) -> None:
    """Note that the results of these tasks were sent."""
    db.execute_each("UPDATE tasks SET sent = 1 WHERE task_id = ?", [(task_id,) for task_id in task_ids])


def expire(db: Database, now_s: float) -> None:
    """Forget the tasks whose results were sent long ago."""
    db.execute("DELETE FROM tasks WHERE sent = 1 AND taken_at_s < ?", (now_s - _KEPT_S,))

"""The rows of the jobs, and their counters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from serve_app.errors import Conflict, Expired, NotFound
from serve_app.jobs.store.database import Database
from serve_app.jobs.store.records import Job, job_of, storable
from serve_app.schemas.jobs import AT_REST, JobSpec, JobState

_UNFINISHED = f"state NOT IN ({', '.join(repr(state) for state in sorted(AT_REST))})"
_SELECT = "SELECT jobs.*, specs.json FROM jobs JOIN specs USING (job)"


def unknown(job_id: str) -> NotFound:
    """Return the error for an id that no job has. An id that a client may not see must give the same error."""
    return NotFound(f"job {job_id[:64]!r} does not exist")


def number_of(db: Database, job_id: str) -> int:
    """Return the number of a job. Raise NotFound if no job has this id."""
    row = db.one("SELECT job FROM jobs WHERE id = ?", (job_id,))
    if row is None:
        raise unknown(job_id)
    return int(row["job"])


def number_of_kept(db: Database, job_id: str) -> int:
    """Return the number of a job whose items are kept. Raise NotFound, or Expired if only its counters are kept."""
    job = number_of(db, job_id)
    if db.one("SELECT state FROM jobs WHERE job = ?", (job,))["state"] == "expired":
        raise Expired(f"the items of job {job_id!r} are no longer kept; run the job again under another id")
    return job


def read(db: Database, job_id: str) -> Job:
    """Return the job with this id."""
    row = db.one(f"{_SELECT} WHERE id = ?", (job_id,))
    if row is None:
        raise unknown(job_id)
    return job_of(row)


def insert(db: Database, spec: JobSpec, owner: str | None, source: str, state: JobState, now_s: float) -> None:
    """Add a job without units. Raise Conflict if the id is taken."""
    if db.one("SELECT 1 FROM jobs WHERE id = ?", (spec.id,)):
        raise Conflict(f"job {spec.id!r} already exists; choose another id")
    job = db.execute(
        "INSERT INTO jobs (id, owner, source, state, created_at_s) VALUES (?, ?, ?, ?, ?)",
        (spec.id, owner, storable(source), state, now_s),
    ).lastrowid
    db.execute("INSERT INTO specs (job, json) VALUES (?, ?)", (job, spec.model_dump_json()))
    db.execute_each("INSERT INTO tags (job, key, value) VALUES (?, ?, ?)", [(job, *tag) for tag in spec.tags.items()])


def set_owner(db: Database, job_id: str, owner: str) -> None:
    """Give a job without an owner an owner. Raise Conflict if it has one."""
    if read(db, job_id).owner is not None:
        raise Conflict(f"job {job_id!r} has an owner already; an owner cannot be changed")
    db.execute("UPDATE jobs SET owner = ?, version = version + 1 WHERE id = ?", (owner, job_id))


def set_paused(db: Database, job_id: str, paused: bool) -> None:
    """Store in the specification whether the job is paused."""
    spec = read(db, job_id).spec.model_copy(update={"paused": paused})
    job = number_of(db, job_id)
    db.execute("UPDATE specs SET json = ? WHERE job = ?", (spec.model_dump_json(), job))
    db.execute("UPDATE jobs SET version = version + 1 WHERE job = ?", (job,))


def page(
    db: Database, owner: str | None, state: JobState | None, tag: str | None, after: str | None, limit: int
) -> list[Job]:
    """Return jobs, the newest first. Raise NotFound if the owner sees no job ``after``."""
    conditions, parameters = ["1 = 1"], list[Any]()
    if owner is not None:
        conditions.append("(owner = ? OR owner IS NULL)")
        parameters.append(owner)
    if after is not None:
        row = db.one(f"SELECT job FROM jobs WHERE id = ? AND {conditions[-1]}", (after, *parameters))
        if row is None:
            raise unknown(after)
        conditions.append("job < ?")
        parameters.append(row["job"])
    if state is not None:
        conditions.append("state = ?")
        parameters.append(state)
    if tag is not None:  # a key may contain "="
        conditions.append("job IN (SELECT job FROM tags WHERE key = ? OR key || '=' || value = ?)")
        parameters += (tag, tag)
    where = " AND ".join(conditions)
    return [
        job_of(row) for row in db.execute(f"{_SELECT} WHERE {where} ORDER BY job DESC LIMIT ?", (*parameters, limit))
    ]


def unfinished(db: Database) -> list[Job]:
    """Return all jobs that are not at rest, the oldest first."""
    return [job_of(row) for row in db.execute(f"{_SELECT} WHERE {_UNFINISHED} ORDER BY job")]


def count_unfinished(db: Database, owner: str | None) -> int:
    """Return how many jobs are not at rest: of an owner, or of all."""
    condition, parameters = (" AND owner = ?", (owner,)) if owner is not None else ("", ())
    return int(db.one(f"SELECT COUNT(*) FROM jobs WHERE {_UNFINISHED}{condition}", parameters)[0])


def count(
    db: Database,
    job: int,
    *,
    items: int = 0,
    succeeded: int = 0,
    failed: int = 0,
    in_flight: int = 0,
    open_units: int = 0,
    out_units: int = 0,
    done_units: int = 0,
    repeated: int = 0,
    errors: Mapping[str, int] | None = None,
    detections: Mapping[str, int] | None = None,
    models: Mapping[str, int] | None = None,
) -> None:
    """Add to the counters of a job. Numbers may be negative."""
    changes = (items, succeeded, failed, in_flight, open_units, out_units, done_units, repeated)
    db.execute(
        "UPDATE jobs SET items = items + ?, succeeded = succeeded + ?, failed = failed + ?, in_flight = in_flight + ?, "
        "open_units = open_units + ?, out_units = out_units + ?, done_units = done_units + ?, repeated = repeated + ?, "
        "version = version + 1 WHERE job = ?",
        (*changes, job),
    )
    for column, more in (("errors", errors), ("detections", detections), ("models", models)):
        if more:
            counted = Counter(json.loads(db.one(f"SELECT {column} FROM jobs WHERE job = ?", (job,))[0]))
            counted.update(more)
            text = json.dumps({key: number for key, number in sorted(counted.items()) if number})
            db.execute(f"UPDATE jobs SET {column} = ? WHERE job = ?", (text, job))

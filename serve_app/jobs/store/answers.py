"""The items of the jobs that are done: pages and streams of results and failures, and single items."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import Any

from serve_app.errors import NotFound
from serve_app.jobs.store import jobs, units
from serve_app.jobs.store.database import Database
from serve_app.jobs.store.records import Answered, failure_of, unpack_results
from serve_app.jobs.units import CLIP_ITEMS, Unit
from serve_app.schemas.jobs import JobFailure

_UNITS_PER_PAGE = 16  # 512 images; a page of results is in memory at once
_FAILURES_PER_PAGE = 512
_FAILURES = "SELECT * FROM failures WHERE job = ? AND item > ? ORDER BY item LIMIT ?"


def page(db: Database, job_id: str, after: int | None, limit: int, state: str | None) -> list[Answered]:
    """Return up to ``limit`` items with a number above ``after`` that are done, by number."""
    job = jobs.number_of_kept(db, job_id)
    after = -1 if after is None else after
    failed = (
        Answered(row["item"], None, failure_of(job_id, row)) for row in db.execute(_FAILURES, (job, after, limit))
    )
    both = merge(
        _succeeded(db, job, after) if state != "failed" else (),
        failed if state != "succeeded" else (),
        key=lambda answered: answered.item,
    )
    return list(islice(both, limit))


def _succeeded(db: Database, job: int, after: int) -> Iterator[Answered]:
    unit = db.one("SELECT number FROM units WHERE job = ? AND first <= ? ORDER BY first DESC LIMIT 1", (job, after))
    rows = db.execute(
        "SELECT data FROM results WHERE job = ? AND unit >= ? ORDER BY unit", (job, unit["number"] if unit else 0)
    )
    for row in rows:
        for item, json in unpack_results(row["data"]):
            if item > after:
                yield Answered(item, json)


def stream_results(database: Database, job_id: str) -> Iterator[str]:
    """Yield the JSON of each item that succeeded. The database is free between two pages of units."""
    unit = -1
    while True:
        with database.reading() as db:
            job = jobs.number_of_kept(db, job_id)  # a job that is forgotten meanwhile ends the stream with an error
            rows = db.execute(
                "SELECT unit, data FROM results WHERE job = ? AND unit > ? ORDER BY unit LIMIT ?",
                (job, unit, _UNITS_PER_PAGE),
            ).fetchall()
        if not rows:
            return
        for row in rows:
            unit = row["unit"]
            for _, json in unpack_results(row["data"]):
                yield json


def stream_failures(database: Database, job_id: str) -> Iterator[JobFailure]:
    """Yield each item that failed. The database is free between two pages."""
    item = -1
    while True:
        with database.reading() as db:
            job = jobs.number_of_kept(db, job_id)
            rows = db.execute(_FAILURES, (job, item, _FAILURES_PER_PAGE)).fetchall()
        if not rows:
            return
        for row in rows:
            item = row["item"]
            yield failure_of(job_id, row)


def find(db: Database, job_id: str, item: int) -> tuple[Unit, Answered | None]:
    """Return the unit of an item, and the result if there is one."""
    job = jobs.number_of_kept(db, job_id)
    row = db.one(f"{units.SELECT_UNIT} WHERE units.job = ? AND first <= ? ORDER BY first DESC LIMIT 1", (job, item))
    if row is not None:
        unit = units.unit_of(job_id, row, row["attempt"])
        answered = _answer(db, job, unit.number, job_id, item)
        if answered is not None or _is_expected(unit, item):
            return unit, answered
    raise NotFound(f"job {job_id!r} has no item {item}")


def _answer(db: Database, job: int, unit: int, job_id: str, item: int) -> Answered | None:
    row: Any = db.one("SELECT * FROM failures WHERE job = ? AND item = ?", (job, item))
    if row is not None:
        return Answered(item, None, failure_of(job_id, row))
    row = db.one("SELECT data FROM results WHERE job = ? AND unit = ?", (job, unit))
    return next((Answered(*pair) for pair in unpack_results(row["data"]) if pair[0] == item), None) if row else None


def _is_expected(unit: Unit, item: int) -> bool:
    """Return whether an item without an answer is one that the unit still has to do."""
    if unit.todo is not None:
        return item in unit.todo
    return item - unit.first < (min(unit.clip.expected, CLIP_ITEMS) if unit.clip else len(unit.items))

"""Jobs, units and results for tests of the store of jobs, and an audit of its tables."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from serve_app.jobs.store import Job, JobStore
from serve_app.jobs.units import CLIP_ITEMS, Clip, Deferred, Failed, Item, NewUnit, Unit, UnitResult
from serve_app.schemas.jobs import JobSpec

NOW_S = 1_795_870_000.0


def spec(job_id: str = "night", **fields: Any) -> JobSpec:
    """Return the specification of a job over a folder."""
    return JobSpec.model_validate({"id": job_id, "source": {"type": "files", "path": "dock"}, **fields})


def pictures(count: int, first: int = 0) -> NewUnit:
    """Return a unit of images that are named by their numbers."""
    return NewUnit(tuple(Item(f"{number}.jpg", 1000 + number, f"v{number}") for number in range(first, first + count)))


def clip(expected: int = 300) -> NewUnit:
    """Return a unit that is a piece of a video."""
    return NewUnit(clip=Clip("day.mp4", 10.0, 20.0, expected))


def opened(folder: Path) -> JobStore:
    """Return an open store."""
    store = JobStore(folder)
    assert store.acquire()
    return store


def created(store: JobStore, *units: NewUnit, job_id: str = "night", **fields: Any) -> Job:
    """Add a running job with these units."""
    store.create(
        spec(job_id, **fields), owner=None, source="dock", state="queued", now_s=NOW_S, units=units, listed=True
    )
    return store.set_state(job_id, "running", NOW_S)


def claimed(store: JobStore, job_id: str = "night", now_s: float = NOW_S) -> Unit:
    """Take the next unit out."""
    (unit,) = store.claim(job_id, 1, now_s)
    return unit


def numbers(unit: Unit, frames: int = 3) -> list[int]:
    """Return the numbers of the items that a runner answers. A clip turns out to have this many frames."""
    if unit.clip is None:
        return [number for number, _ in unit.wanted()]
    return list(range(unit.first, unit.first + frames))  # a runner decodes the whole clip again


def result_of(
    unit: Unit,
    *,
    failed: Collection[int] = (),
    deferred: Collection[int] = (),
    code: str = "undecodable",
    retry_after_s: float = 5.0,
    frames: int = 3,
) -> UnitResult:
    """Return the result of a runner that has done a unit, but for the items that fail or are deferred."""
    done = [number for number in numbers(unit, frames) if number not in failed and number not in deferred]
    return UnitResult(
        unit.job_id,
        unit.number,
        unit.attempt,
        tuple((number, result_json(unit.job_id, number)) for number in done),
        tuple(Failed(number, f"{number}.jpg", code, "the image is damaged") for number in failed),
        Deferred(tuple(deferred), "unavailable", "no model", retry_after_s) if deferred else None,
        {"person": 2 * len(done)} if done else {},
        {"default@1": len(done)} if done else {},
    )


def result_json(job_id: str, number: int) -> str:
    """Return the JSON of a result, which depends on the item alone."""
    detections = [{"label": "person", "confidence": 0.5 + index / 10} for index in range(2)]
    return json.dumps({"job_id": job_id, "item": number, "count": 2, "detections": detections, "model": "default@1"})


def audit(connection: sqlite3.Connection) -> None:
    """Assert that the file is sound, and that every counter equals what the tables have."""
    connection.row_factory = sqlite3.Row
    assert [tuple(row) for row in connection.execute("PRAGMA integrity_check")] == [("ok",)]
    jobs = connection.execute("SELECT * FROM jobs").fetchall()
    for table in tables_of(connection):
        assert {row["job"] for row in connection.execute(f"SELECT job FROM {table}")} <= {job["job"] for job in jobs}
    for job in jobs:
        if job["state"] != "expired":
            _audit_job(connection, job)


def _audit_job(connection: sqlite3.Connection, job: sqlite3.Row) -> None:
    def rows(table: str) -> list[sqlite3.Row]:
        return connection.execute(f"SELECT * FROM {table} WHERE job = ?", (job["job"],)).fetchall()

    units, failures, succeeded, contents = rows("units"), rows("failures"), list[int](), dict[int, Any]()
    for row in rows("results"):
        records = zlib.decompress(row["data"]).decode().split("\x1e")
        items = [int(record.split(" ", 1)[0]) for record in records]
        assert items == sorted(items)
        assert [json.loads(record.split(" ", 1)[1])["item"] for record in records] == items
        succeeded += items
    for row in rows("contents"):
        contents[row["unit"]] = json.loads(zlib.decompress(row["data"]))
    answered = Counter([*succeeded, *(row["item"] for row in failures)])
    assert not answered or max(answered.values()) == 1, "an item has two answers"
    assert sorted(contents) == [unit["number"] for unit in units] == list(range(job["next_unit"]))
    next_item = 0
    for unit in units:
        content = contents[unit["number"]]
        size = CLIP_ITEMS if unit["is_clip"] else len(content["items"])
        own = range(next_item, next_item + size)
        assert unit["first"] == next_item
        next_item += size
        todo = json.loads(unit["todo"] or "null")
        assert unit["remaining"] == 0 if unit["state"] == "done" else unit["remaining"] > 0 or unit["is_clip"]
        assert (unit["state"] == "paused") == (unit["not_before_s"] is not None)
        if todo is not None:
            assert len(todo) == unit["remaining"]
            assert not answered.keys() & set(todo), "an item with an answer waits for one"
        if not unit["is_clip"]:  # each item has its answer, or will be done
            left = [] if unit["state"] == "done" else list(own) if todo is None else todo
            assert sorted([*left, *(item for item in answered if item in own)]) == list(own)
    assert next_item == job["next_item"]
    states = Counter(unit["state"] for unit in units)
    counted = {
        "succeeded": len(succeeded),
        "failed": len(failures),
        "in_flight": sum(unit["remaining"] for unit in units if unit["state"] == "out"),
        "items": len(answered) + sum(unit["remaining"] for unit in units),
        "open_units": states["open"] + states["paused"],
        "out_units": states["out"],
        "done_units": states["done"],
        "errors": dict(Counter(row["code"] for row in failures)),
        "detections": {"person": 2 * len(succeeded)} if succeeded else {},
        "models": {"default@1": len(succeeded)} if succeeded else {},
    }
    actual = {name: json.loads(job[name]) if isinstance(job[name], str) else job[name] for name in counted}
    assert actual == counted


def audit_folder(folder: Path) -> None:
    """Audit the file of a store that is closed."""
    connection = sqlite3.connect(folder / "jobs.sqlite")
    audit(connection)
    connection.close()


def dump(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of a store that is closed."""
    connection = sqlite3.connect(folder / "jobs.sqlite")
    rows = rows_of(connection)
    connection.close()
    return rows


def rows_of(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of a store."""
    return {table: sorted(map(tuple, connection.execute(f"SELECT * FROM {table}"))) for table in tables_of(connection)}


def tables_of(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the store's tables."""
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    return [row[0] for row in connection.execute(query)]


def connection_of(store: JobStore) -> sqlite3.Connection:
    """Return the connection of an open store, because no second one can read its file."""
    connection = store._database._connection
    assert connection is not None
    return connection


def counters(job: Job) -> tuple[int, int, int, int, int]:
    """Return the numbers of all, succeeded, failed, waiting and claimed items."""
    return job.items, job.succeeded, job.failed, job.waiting, job.in_flight


def finished(store: JobStore, *failed: int, job_id: str = "night") -> Job:
    """Add a job of four images of which some failed, and complete it."""
    created(store, pictures(4), job_id=job_id)
    assert store.commit(result_of(claimed(store, job_id), failed=failed), NOW_S)
    return store.set_state(job_id, "completed", NOW_S)

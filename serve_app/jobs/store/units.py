"""The units of the jobs: they are added, taken out, and given back with their results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from serve_app.jobs.store import jobs
from serve_app.jobs.store.database import Database
from serve_app.jobs.store.records import pack_content, pack_results, storable, unpack_content, unpack_results
from serve_app.jobs.units import CLIP_ITEMS, Clip, Deferred, Failed, Item, NewUnit, Unit, UnitResult
from serve_app.schemas.jobs import AT_REST

# After this many deaths of runners, the images of a unit are claimed one at a time. A deadly image seldom causes the
# second death, because a suspect unit is decoded in another process. Another unit of the same runner may cause it.
ALONE_AFTER_DEATHS = 2
MAX_DEATHS = 4  # after this many deaths, the image that was claimed fails, or the clip

_STOPPED = AT_REST | {"cancelling"}
SELECT_UNIT = "SELECT units.*, contents.data FROM units JOIN contents ON contents.job = units.job AND unit = number"


def add(db: Database, job_id: str, units: Sequence[NewUnit], cursor: str | None, listed: bool) -> None:
    """Add units to the end of a job, and store where its listing continues, unless the job has been stopped."""
    row = db.one("SELECT job, state, next_unit, next_item FROM jobs WHERE id = ?", (job_id,))
    if row is None:
        raise jobs.unknown(job_id)
    if row["state"] in _STOPPED:
        return
    job, first, items = row["job"], row["next_item"], 0
    rows, contents = [], []
    for number, unit in enumerate(units, row["next_unit"]):
        if not unit.items and unit.clip is None:
            raise ValueError(f"unit {number} of job {job_id!r} has neither items nor a clip")
        size = unit.clip.expected if unit.clip else len(unit.items)
        rows.append((job, number, first, unit.clip is not None, size))
        contents.append((job, number, pack_content(unit)))
        first += CLIP_ITEMS if unit.clip else size
        items += size
    db.execute_each(
        "INSERT INTO units (job, number, state, first, is_clip, remaining) VALUES (?, ?, 'open', ?, ?, ?)", rows
    )
    db.execute_each("INSERT INTO contents (job, unit, data) VALUES (?, ?, ?)", contents)
    db.execute(
        "UPDATE jobs SET next_unit = next_unit + ?, next_item = ?, cursor = ?, listed = ? WHERE job = ?",
        (len(rows), first, json.dumps(cursor), listed, job),
    )
    jobs.count(db, job, items=items, open_units=len(rows))


def claim(db: Database, job_id: str, limit: int, now_s: float) -> list[Unit]:
    """Take up to ``limit`` open units out, in order."""
    row = db.one("SELECT job, state FROM jobs WHERE id = ?", (job_id,))
    if row is None:
        raise jobs.unknown(job_id)
    if row["state"] in _STOPPED:
        return []
    job = row["job"]
    db.execute(
        "UPDATE units SET state = 'open', not_before_s = NULL WHERE job = ? AND state = 'paused' AND not_before_s <= ?",
        (job, now_s),
    )
    # The inner query is answered by the index alone. Without it, SQLite would read all units before the first open one.
    which = "SELECT number FROM units WHERE job = ? AND state = 'open' ORDER BY number LIMIT ?"
    rows = db.execute(
        f"{SELECT_UNIT} WHERE units.job = ? AND number IN ({which}) ORDER BY number", (job, job, limit)
    ).fetchall()
    if rows:
        db.execute_each(
            "UPDATE units SET state = 'out', attempt = attempt + 1 WHERE job = ? AND number = ?",
            [(job, row["number"]) for row in rows],
        )
        in_flight = sum(row["remaining"] for row in rows)
        jobs.count(db, job, in_flight=in_flight, open_units=-len(rows), out_units=len(rows))
    return [_alone(row, unit_of(job_id, row, attempt=row["attempt"] + 1)) for row in rows]


def unit_of(job_id: str, row: Any, attempt: int) -> Unit:
    """Return the unit of a row of the table ``units`` with the column ``data`` of ``contents``."""
    items, clip = unpack_content(row["data"])
    todo = () if row["state"] == "done" else _todo(row)
    return Unit(
        job_id,
        row["number"],
        attempt,
        row["first"],
        items,
        clip,
        None if todo is None else tuple(todo),
        row["deaths"] > 0,
    )


def _todo(row: Any) -> list[int] | None:
    return None if row["todo"] is None else json.loads(row["todo"])


def _is_alone(row: Any) -> bool:
    return row["deaths"] >= ALONE_AFTER_DEATHS and not row["is_clip"]


def _alone(row: Any, unit: Unit) -> Unit:
    """Return the unit as a runner gets it: with only its next image if too many runners died during the unit."""
    return replace(unit, todo=tuple(_wanted(row))) if _is_alone(row) else unit


def _wanted(row: Any) -> list[int]:
    """Return the items of a unit of images that a runner is asked for."""
    left = _left_to_do(row)
    return left[:1] if _is_alone(row) else left


def _left_to_do(row: Any) -> list[int]:
    todo = _todo(row)
    return list(range(row["first"], row["first"] + row["remaining"])) if todo is None else todo


def commit(db: Database, result: UnitResult, now_s: float) -> bool:
    """Store a unit's results, failures and state, and count them. Return False if they come too late."""
    row = _out(db, result.job_id, result.number, result.attempt)
    if row is None or row["job_state"] in _STOPPED:
        return False
    _check(row, result)
    if row["is_clip"] and row["todo"] is not None:
        result = _without_known(db, row, result)
    deferred = None if result.deferred is None or result.deferred.items == () else result.deferred
    remaining, todo = _left(row, deferred)
    is_done = deferred is None and todo is None
    pause_s = deferred.retry_after_s if deferred else 0.0
    _answer(db, row, result, remaining, todo, is_done=is_done, pause_s=pause_s, now_s=now_s)
    if deferred is None and not is_done:
        _set_deaths(db, row, ALONE_AFTER_DEATHS)  # later deaths happened during the image that is now done
    return True


def _left(row: Any, deferred: Deferred | None) -> tuple[int, str | None]:
    """Return ``remaining`` and ``todo`` of a unit after a commit."""
    if deferred is not None and deferred.items is None:
        return row["remaining"], row["todo"]
    left = list(deferred.items or ()) if deferred else []
    if _is_alone(row):
        left += _left_to_do(row)[1:]
    return len(left), json.dumps(sorted(left)) if left else None


def release(db: Database, unit: Unit, now_s: float, *, suspect: bool, pause_s: float) -> list[Failed]:
    """Open a unit again. If too many runners died, fail the image that was alone, or the clip. Return what failed."""
    row = _out(db, unit.job_id, unit.number, unit.attempt)
    if row is None:
        return []
    deaths = row["deaths"] + suspect
    if deaths < MAX_DEATHS:
        _set_deaths(db, row, deaths)
        _set_unit_state(db, row, row["remaining"], row["todo"], is_done=False, pause_s=pause_s, now_s=now_s)
        jobs.count(db, row["job"], in_flight=-row["remaining"], out_units=-1, open_units=1, repeated=1)
        return []
    detail = f"{MAX_DEATHS} processes crashed while they worked on this clip"
    alone = None
    if not row["is_clip"]:
        alone = _left_to_do(row)[0]
        detail = (
            f"{MAX_DEATHS} processes crashed while they worked on this image, the last "
            f"{MAX_DEATHS - ALONE_AFTER_DEATHS} while they worked on no other image of its unit"
        )
    failed = [
        Failed(item, name, "poison", detail, id)
        for item, name, id in _unanswered(db, row)
        if alone is None or item == alone
    ]
    left = [] if alone is None else _left_to_do(row)[1:]
    todo = json.dumps(left) if left else None
    result = UnitResult(unit.job_id, unit.number, unit.attempt, results=(), failed=tuple(failed))
    repeated = 1 if left else 0
    _answer(db, row, result, len(left), todo, is_done=not left, pause_s=pause_s, now_s=now_s, repeated=repeated)
    _set_deaths(db, row, ALONE_AFTER_DEATHS)
    return failed


def _answer(
    db: Database,
    row: Any,
    result: UnitResult,
    remaining: int,
    todo: str | None,
    *,
    is_done: bool,
    pause_s: float,
    now_s: float,
    repeated: int = 0,
) -> None:
    """Store what has been done of a unit, and what is left of it, and count both."""
    if result.results:
        _store_results(db, row, result.results)
    _store_failures(db, row, result.failed)
    _set_unit_state(db, row, remaining, todo, is_done=is_done, pause_s=pause_s, now_s=now_s)
    succeeded, failed = len(result.results), len(result.failed)
    jobs.count(
        db,
        row["job"],
        items=succeeded + failed + remaining - row["remaining"],  # not 0 only for a clip
        succeeded=succeeded,
        failed=failed,
        in_flight=-row["remaining"],
        out_units=-1,
        open_units=0 if is_done else 1,
        done_units=1 if is_done else 0,
        repeated=repeated,
        errors=Counter(failure.code for failure in result.failed),
        detections=result.detections,
        models=result.models,
    )


def _set_deaths(db: Database, row: Any, deaths: int) -> None:
    db.execute("UPDATE units SET deaths = ? WHERE job = ? AND number = ?", (deaths, row["job"], row["number"]))


def _out(db: Database, job_id: str, number: int, attempt: int) -> Any:
    """Return the row of a unit if it is out in this attempt."""
    return db.one(
        "SELECT units.*, jobs.state AS job_state FROM jobs JOIN units USING (job) "
        "WHERE jobs.id = ? AND number = ? AND attempt = ? AND units.state = 'out'",
        (job_id, number, attempt),
    )


def _check(row: Any, result: UnitResult) -> None:
    """Raise ValueError unless each item that was to do is in exactly one of the three groups."""
    answered = [item for item, _ in result.results] + [failure.item for failure in result.failed]
    if result.deferred is not None and result.deferred.items is None:
        is_right = not answered
    else:
        numbers = [*answered, *(result.deferred.items or () if result.deferred else ())]
        first, is_unique = row["first"], len(set(numbers)) == len(numbers)
        if row["is_clip"]:  # only the runner knows which frames there are
            is_right = is_unique and all(number in range(first, first + CLIP_ITEMS) for number in numbers)
        else:
            is_right = is_unique and set(numbers) == set(_wanted(row))
    if not is_right:
        raise ValueError(f"the result of unit {result.number} of job {result.job_id!r} is not for exactly its items")


def _without_known(db: Database, row: Any, result: UnitResult) -> UnitResult:
    """Return the result of a clip without the frames that have an answer.

    A runner decodes a whole clip again even if only one frame is tried again. Frames that it could not reach before are
    new. The answers of the others stay as they are.
    """
    old = db.one("SELECT data FROM results WHERE job = ? AND unit = ?", (row["job"], row["number"]))
    failed = db.execute("SELECT item FROM failures WHERE job = ? AND item >= ? AND item < ?", _item_range(row))
    known = {item for item, _ in (unpack_results(old["data"]) if old else ())} | {item for (item,) in failed}
    repeated = [json.loads(text) for item, text in result.results if item in known]
    labels = Counter(detection["label"] for answer in repeated for detection in answer["detections"])
    deferred = result.deferred
    if deferred is not None and deferred.items is not None:
        deferred = replace(deferred, items=tuple(item for item in deferred.items if item not in known))
    return replace(
        result,
        deferred=deferred,
        results=tuple(pair for pair in result.results if pair[0] not in known),
        failed=tuple(failure for failure in result.failed if failure.item not in known),
        detections=dict(Counter(result.detections) - labels),
        models=dict(Counter(result.models) - Counter(answer["model"] for answer in repeated)),
    )


def _store_results(db: Database, row: Any, results: Sequence[tuple[int, str]]) -> None:
    """Add results to those that a unit has."""
    key = row["job"], row["number"]
    if row["todo"] is not None and (old := db.one("SELECT data FROM results WHERE job = ? AND unit = ?", key)):
        results = [*unpack_results(old["data"]), *results]
    db.execute(
        "INSERT INTO results (job, unit, data) VALUES (?, ?, ?) "
        "ON CONFLICT (job, unit) DO UPDATE SET data = excluded.data",
        (*key, pack_results(sorted(results))),
    )


def _store_failures(db: Database, row: Any, failed: Sequence[Failed]) -> None:
    db.execute_each(
        "INSERT INTO failures (job, unit, item, name, code, detail, client_id) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(row["job"], row["number"], f.item, *map(storable, (f.name, f.code, f.detail, f.id))) for f in failed],
    )


def _set_unit_state(
    db: Database, row: Any, remaining: int, todo: str | None, *, is_done: bool, pause_s: float, now_s: float
) -> None:
    state = "done" if is_done else "paused" if pause_s > 0 else "open"
    db.execute(
        "UPDATE units SET state = ?, remaining = ?, todo = ?, not_before_s = ? WHERE job = ? AND number = ?",
        (state, remaining, todo, now_s + pause_s if state == "paused" else None, row["job"], row["number"]),
    )


def _item_range(row: Any) -> tuple[int, int, int]:
    """Return the job of a clip, its first item number, and the number after its last one."""
    return row["job"], row["first"], row["first"] + CLIP_ITEMS


def _content(db: Database, row: Any) -> tuple[tuple[Item, ...], Clip | None]:
    key = row["job"], row["number"]
    return unpack_content(db.one("SELECT data FROM contents WHERE job = ? AND unit = ?", key)["data"])


def _unanswered(db: Database, row: Any) -> Iterator[tuple[int, str, str]]:
    """Yield number, name and client's id of the items that a unit still has to do.

    A clip of which no frame is known counts as one item, because the number of its frames is not known.
    """
    items, clip = _content(db, row)
    todo = _todo(row)
    if clip is not None:
        yield from ((number, clip.name, "") for number in ([row["first"]] if todo is None else todo))
        return
    for number, item in enumerate(items, row["first"]):
        if todo is None or number in todo:
            yield number, item.name, item.id


def take_back(db: Database, job: int) -> None:
    """Open the units of a job again that are out. Their results come too late then."""
    db.execute("UPDATE units SET state = 'open' WHERE job = ? AND state = 'out'", (job,))
    db.execute(
        "UPDATE jobs SET open_units = open_units + out_units, out_units = 0, in_flight = 0, version = version + 1 "
        "WHERE job = ? AND out_units > 0",
        (job,),
    )


def take_back_all(db: Database) -> None:
    """Open all units again that are out, because the process that waits for their results has ended."""
    for row in db.execute("SELECT DISTINCT job FROM units WHERE state = 'out'").fetchall():
        db.execute("UPDATE jobs SET repeated = repeated + out_units WHERE job = ?", (row["job"],))
        take_back(db, row["job"])


def next_pause_s(db: Database, job_id: str, now_s: float) -> float | None:
    """Return how many seconds the first paused unit still has to wait, or None if there is none."""
    job = jobs.number_of(db, job_id)
    until_s = db.one("SELECT MIN(not_before_s) FROM units WHERE job = ? AND state = 'paused'", (job,))[0]
    return None if until_s is None else max(0.0, until_s - now_s)


def reopen_failed(db: Database, job: int, codes: Collection[str] | None) -> None:
    """Open the units of failed items again, for these items. Units that are out stay as they are."""
    parameters: tuple[Any, ...] = (job, job)
    which = "job = ? AND unit NOT IN (SELECT number FROM units WHERE job = ? AND state = 'out')"
    if codes is not None:
        which += f" AND code IN ({', '.join('?' * len(codes))})"
        parameters += tuple(codes)
    rows = db.execute(f"SELECT unit, item, code FROM failures WHERE {which} ORDER BY item", parameters)
    failed, items, opened, errors = 0, 0, 0, Counter[str]()
    for number, group in groupby(rows, key=lambda row: row["unit"]):
        failures = [(row["item"], row["code"]) for row in group]
        row = db.one("SELECT * FROM units WHERE job = ? AND number = ?", (job, number))
        todo, remaining = _reopened(db, row, [item for item, _ in failures])
        # A runner that dies during a suspect unit is expected, so the unit stays suspect, but may be tried again.
        db.execute(
            "UPDATE units SET state = CASE state WHEN 'paused' THEN 'paused' ELSE 'open' END, todo = ?, remaining = ?, "
            "deaths = MIN(deaths, 1) WHERE job = ? AND number = ?",
            (todo, remaining, job, number),
        )
        failed += len(failures)
        items += remaining - row["remaining"] - len(failures)  # not 0 only for a clip
        opened += row["state"] == "done"
        errors.update(code for _, code in failures)
    db.execute(f"DELETE FROM failures WHERE {which}", parameters)
    minus = {code: -number for code, number in errors.items()}
    jobs.count(db, job, items=items, failed=-failed, open_units=opened, done_units=-opened, errors=minus)


def _reopened(db: Database, row: Any, failed: list[int]) -> tuple[str | None, int]:
    """Return ``todo`` and ``remaining`` of a unit of which these items are tried again."""
    if row["is_clip"] and row["state"] == "done":
        own = "SELECT COUNT(*) FROM failures WHERE job = ? AND item >= ? AND item < ?"
        all_failed = db.one(own, _item_range(row))[0]
        result = db.one("SELECT 1 FROM results WHERE job = ? AND unit = ?", (row["job"], row["number"]))
        _, clip = _content(db, row)
        if clip and result is None and all_failed == len(failed):
            return None, clip.expected  # perhaps no frame was ever read, so the whole clip is tried again
    todo = sorted({*failed, *(_todo(row) or ())})
    return json.dumps(todo), len(todo)

"""The log of each job's events, and how much of it each sink has sent."""

from __future__ import annotations

import json

from serve_app.jobs.store import jobs
from serve_app.jobs.store.database import Database
from serve_app.types import Event

_MAX_KEPT = 512  # how many events a client can catch up on after it reconnects


def add(db: Database, job_id: str, kind: str, body: str, now_s: float) -> Event:
    """Add an event, and forget the oldest if there are too many."""
    job = jobs.number_of(db, job_id)
    event_id = db.one("SELECT next_event FROM jobs WHERE job = ?", (job,))["next_event"]
    head = {"event_id": event_id, "type": kind, "job_id": job_id, "at_s": round(now_s, 3)}
    text = json.dumps(head | json.loads(body) | head, separators=(",", ":"))  # the head comes first, and is right
    db.execute("INSERT INTO events (job, event_id, type, json) VALUES (?, ?, ?, ?)", (job, event_id, kind, text))
    db.execute("DELETE FROM events WHERE job = ? AND event_id <= ?", (job, event_id - _MAX_KEPT))
    db.execute("UPDATE jobs SET next_event = ? WHERE job = ?", (event_id + 1, job))
    return Event(event_id, kind, job_id, text)


def page(db: Database, job_id: str, after: int | None, limit: int) -> tuple[list[Event], int, int]:
    """Return events above ``after``, the id of the newest event or -1, and how many events are no longer kept."""
    job = jobs.number_of(db, job_id)
    newest = db.one("SELECT next_event FROM jobs WHERE job = ?", (job,))["next_event"] - 1
    after = newest if after is None else after
    rows = db.execute(
        "SELECT event_id, type, json FROM events WHERE job = ? AND event_id > ? ORDER BY event_id LIMIT ?",
        (job, after, limit),
    )
    events = [Event(row["event_id"], row["type"], job_id, row["json"]) for row in rows]
    return events, newest, events[0].event_id - max(after, -1) - 1 if events else 0


def set_delivered(db: Database, job_id: str, sink: int, event_id: int) -> None:
    """Store that a sink has sent the events up to ``event_id``."""
    db.execute(
        "INSERT INTO deliveries (job, sink, event_id) VALUES (?, ?, ?) "
        "ON CONFLICT (job, sink) DO UPDATE SET event_id = excluded.event_id WHERE excluded.event_id > event_id",
        (jobs.number_of(db, job_id), sink, event_id),
    )


def last_delivered(db: Database, job_id: str, sink: int) -> int:
    """Return the id of the last event that a sink has sent, or -1."""
    job = jobs.number_of(db, job_id)
    row = db.one("SELECT event_id FROM deliveries WHERE job = ? AND sink = ?", (job, sink))
    return -1 if row is None else int(row["event_id"])

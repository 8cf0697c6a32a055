"""The tables of the store, and the changes that bring an older file up to date."""

from __future__ import annotations

from typing import Final

# Each entry brings a file from one version to the next, so a new file runs all of them. Never change an entry that has
# been released: add another one. The file's version is SQLite's `user_version`.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        # `job` is a job's number, which the other tables refer to. It is never used again, and grows, so it also is the
        # order in which the jobs were made.
        """CREATE TABLE jobs (
            job INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            source TEXT NOT NULL,
            state TEXT NOT NULL,
            detail TEXT NOT NULL DEFAULT '',
            listed INTEGER NOT NULL DEFAULT 0,
            cursor TEXT NOT NULL DEFAULT 'null',
            items INTEGER NOT NULL DEFAULT 0,
            succeeded INTEGER NOT NULL DEFAULT 0,
            failed INTEGER NOT NULL DEFAULT 0,
            in_flight INTEGER NOT NULL DEFAULT 0,
            open_units INTEGER NOT NULL DEFAULT 0,
            out_units INTEGER NOT NULL DEFAULT 0,
            done_units INTEGER NOT NULL DEFAULT 0,
            repeated INTEGER NOT NULL DEFAULT 0,
            errors TEXT NOT NULL DEFAULT '{}',
            detections TEXT NOT NULL DEFAULT '{}',
            models TEXT NOT NULL DEFAULT '{}',
            next_unit INTEGER NOT NULL DEFAULT 0,
            next_item INTEGER NOT NULL DEFAULT 0,
            next_event INTEGER NOT NULL DEFAULT 0,
            created_at_s REAL NOT NULL,
            started_at_s REAL,
            finished_at_s REAL,
            expires_at_s REAL,
            version INTEGER NOT NULL DEFAULT 0
        )""",
        "CREATE INDEX jobs_by_state ON jobs (state)",
        "CREATE INDEX jobs_by_expiry ON jobs (expires_at_s)",
        # A specification can have 10,000 URLs, so it is kept apart from the counters, which are written for each unit.
        "CREATE TABLE specs (job INTEGER PRIMARY KEY, json TEXT NOT NULL)",
        "CREATE TABLE tags (job INTEGER, key TEXT, value TEXT NOT NULL, PRIMARY KEY (job, key)) WITHOUT ROWID",
        # `state` is open, paused (open, but not before `not_before_s`), out or done. `remaining` counts the items
        # without a result. `todo` has their numbers as JSON, or is null if they are all items of the unit.
        """CREATE TABLE units (
            job INTEGER,
            number INTEGER,
            state TEXT NOT NULL,
            attempt INTEGER NOT NULL DEFAULT 0,
            first INTEGER NOT NULL,
            is_clip INTEGER NOT NULL,
            remaining INTEGER NOT NULL,
            todo TEXT,
            deaths INTEGER NOT NULL DEFAULT 0,
            not_before_s REAL,
            PRIMARY KEY (job, number)
        ) WITHOUT ROWID""",
        # With these indexes, the time of a claim does not grow with the job. They have the column `state`, too, because
        # SQLite would prefer the primary key otherwise.
        "CREATE INDEX open_units ON units (job, state, number) WHERE state = 'open'",
        "CREATE INDEX paused_units ON units (job, state, not_before_s) WHERE state = 'paused'",
        "CREATE INDEX out_units ON units (job, state, number) WHERE state = 'out'",
        "CREATE INDEX units_by_item ON units (job, first)",
        # Names and results are large and seldom read, so the rows that change often are in other tables.
        "CREATE TABLE contents (job INTEGER, unit INTEGER, data BLOB NOT NULL, PRIMARY KEY (job, unit))",
        "CREATE TABLE results (job INTEGER, unit INTEGER, data BLOB NOT NULL, PRIMARY KEY (job, unit))",
        """CREATE TABLE failures (
            job INTEGER,
            item INTEGER,
            unit INTEGER NOT NULL,
            name TEXT NOT NULL,
            code TEXT NOT NULL,
            detail TEXT NOT NULL,
            client_id TEXT NOT NULL,
            PRIMARY KEY (job, item)
        ) WITHOUT ROWID""",
        """CREATE TABLE events (
            job INTEGER, event_id INTEGER, type TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY (job, event_id)
        ) WITHOUT ROWID""",
        """CREATE TABLE deliveries (
            job INTEGER, sink INTEGER, event_id INTEGER NOT NULL, PRIMARY KEY (job, sink)
        ) WITHOUT ROWID""",
    ),
    ("ALTER TABLE jobs ADD COLUMN owner TEXT",),
    (
        # `sent` is 1 when the task's result is in Celery's backend.
        """CREATE TABLE tasks (
            task_id TEXT PRIMARY KEY,
            kind TEXT NOT NULL,
            job INTEGER NOT NULL,
            taken_at_s REAL NOT NULL,
            sent INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID""",
        "CREATE INDEX unsent_tasks ON tasks (job) WHERE sent = 0",
    ),
)
VERSION: Final = len(MIGRATIONS)
WORK_TABLES: Final = ("units", "contents", "results", "failures", "events", "deliveries")  # forgotten by expiry
TABLES: Final = ("jobs", "specs", "tags", *WORK_TABLES)

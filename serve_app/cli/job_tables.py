"""The tables, lines and progress bars that ``sightline jobs`` prints."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from serve_app.client import SightlineError
from serve_app.schemas.jobs import AT_REST, JobFailure, JobResult, JobStatus

if TYPE_CHECKING:
    from serve_app.client import Client

_INTERVAL_S = 0.5
_LINE_INTERVAL_S = 5.0  # if the output is not a terminal


def status_table(jobs: list[JobStatus]) -> Table:
    """Return a table with one row for each job."""
    table = Table(box=SIMPLE, padding=0)
    for heading in ("job", "state", "source", "succeeded", "failed", "waiting", "images/s", "left"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        state = f"{job.state}: {job.detail}" if job.detail else job.state
        counts = str(job.succeeded), _failed(job), str(job.waiting + job.in_flight)
        table.add_row(job.job_id, state, job.source, *counts, f"{job.images_per_s:.1f}", _left(job))
    return table


def status_line(job: JobStatus) -> str:
    """Return a job's state and counters as one line."""
    state = f"{job.state}: {job.detail}" if job.detail else job.state
    found = ", ".join(f"{count} {label}" for label, count in sorted(job.detections.items(), key=lambda one: -one[1]))
    line = f"{job.job_id}: {state}; {job.succeeded} of {job.items} items succeeded, {_failed(job)} failed"
    return f"{line}; {found}" if found else line


def item_line(item: JobResult | JobFailure) -> str:
    """Return an item's number, its name and its detections or its error as one line."""
    name = item.name if item.id is None else f"{item.name} ({item.id})"
    if isinstance(item, JobFailure):
        return f"{item.item} {name}: {item.code}: {item.detail}"
    time_s = "" if item.time_s is None else f" at {item.time_s:.2f} s"
    found = [f"{one.label} {one.confidence:.2f}" for one in item.detections]
    found += [f"{one.label} {one.confidence:.2f}" for one in item.classes or []]
    return f"{item.item} {name}{time_s}: {', '.join(found) or 'nothing'}"


def show_progress(client: Client, job_id: str) -> JobStatus:
    """Show a job's progress until it ends: a bar in a terminal, or a line every 5 s. Return its last status."""
    if not sys.stdout.isatty():
        return _print_progress(client, job_id)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}")
    with Progress(*columns, TimeElapsedColumn(), console=Console()) as bar:
        task = bar.add_task(job_id, total=None, more="")
        while True:
            job = current_status(client, job_id)
            more = [f"{job.images_per_s:.1f}/s", _left(job), f"{_failed(job)} failed" if job.failed else ""]
            bar.update(
                task,
                description=f"{job_id} {job.state}",
                total=job.items if job.listed else None,
                completed=job.succeeded + job.failed,
                more=" ".join(filter(None, more)),
            )
            if job.state in AT_REST:
                return job
            time.sleep(_INTERVAL_S)


def current_status(client: Client, job_id: str) -> JobStatus:
    """Return a job's status. While the server does not answer, for example because it restarts, say so and wait."""
    is_waiting = False
    while True:
        try:
            return client.jobs.status(job_id)
        except SightlineError as exc:
            if not exc.is_retryable:
                raise
            if not is_waiting:
                print(f"waiting for the server: {exc}", file=sys.stderr, flush=True)
            is_waiting = True
        time.sleep(_INTERVAL_S)


def _print_progress(client: Client, job_id: str) -> JobStatus:
    printed_at_s = time.monotonic()
    while (job := current_status(client, job_id)).state not in AT_REST:
        if time.monotonic() - printed_at_s > _LINE_INTERVAL_S:
            printed_at_s = time.monotonic()
            print(f"{status_line(job)}; {job.images_per_s:.1f} images/s {_left(job)}".rstrip(), flush=True)
        time.sleep(_INTERVAL_S)
    return job


def _failed(job: JobStatus) -> str:
    codes = ", ".join(f"{count} {code}" for code, count in job.errors.items())
    return f"{job.failed} ({codes})" if codes else str(job.failed)


def _left(job: JobStatus) -> str:
    if job.eta_s is None:
        return ""
    minutes, seconds = divmod(round(job.eta_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"

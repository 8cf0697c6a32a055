"""The files of a job's results, which clients may read in ranges."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from serve_app.api.backend import Jobs
from serve_app.api.ranges import ranged_response
from serve_app.api.uploads import PIECE_BYTES
from serve_app.errors import NotFinished
from serve_app.schemas.jobs import AT_REST, BoxRow, Format, JobResult
from serve_app.types import Principal

_PAGE = 1000  # items
MEDIA_TYPES: dict[Format, str] = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "coco": "application/json",
    "yolo": "application/zip",
    "parquet": "application/vnd.apache.parquet",
}
_SUFFIXES: dict[Format, str] = {
    "jsonl": "jsonl",
    "csv": "csv",
    "coco": "coco.json",
    "yolo": "yolo.zip",
    "parquet": "parquet",
}


async def results_response(jobs: Jobs, request: Request, job_id: str, who: Principal, kind: Format) -> Response:
    """Return the results of a job in a format: the whole file or a range, or the results so far of a running job.

    Raise NotFinished if the job has not ended, and the format needs the end.
    """
    status = await jobs.status(job_id, who)
    headers = {
        "X-Job-State": status.state,
        "Content-Disposition": f'attachment; filename="{job_id}.{_SUFFIXES[kind]}"',
        "Cache-Control": "no-cache",
    }
    if status.state not in AT_REST:
        if kind not in {"jsonl", "csv"}:
            raise NotFinished(
                f"format: {kind} needs the end of the job, which is {status.state}; wait for it, or use jsonl or csv"
            )
        lines = _lines_so_far(jobs, job_id, who, kind)
        first = await anext(lines)  # an error can set the status only before the response begins
        return StreamingResponse(_joined(first, lines), media_type=MEDIA_TYPES[kind], headers=headers)
    file = await jobs.results(job_id, who, kind)
    return ranged_response(
        request,
        lambda span: _pieces(jobs, job_id, who, kind, span),
        size_bytes=file.size_bytes,
        tag=f'"{file.sha256}"',
        headers=headers,
        media_type=MEDIA_TYPES[kind],
    )


async def _pieces(jobs: Jobs, job_id: str, who: Principal, kind: Format, span: range) -> AsyncIterator[bytes]:
    for offset in range(span.start, span.stop, PIECE_BYTES):
        yield await jobs.read_results(job_id, who, kind, offset, min(PIECE_BYTES, span.stop - offset))


async def _lines_so_far(jobs: Jobs, job_id: str, who: Principal, kind: Format) -> AsyncIterator[bytes]:
    """Yield the lines of all results so far, a page at a time."""
    heading = b"" if kind == "jsonl" else _row(BoxRow._fields)
    after: int | None = None
    while True:
        page = await jobs.items(job_id, who, state="succeeded", after=after, limit=_PAGE)
        results = [item for item in page.items if isinstance(item, JobResult)]
        yield heading + b"".join((_json_line if kind == "jsonl" else _rows)(result) for result in results)
        heading = b""
        if page.next is None:
            return
        after = page.next


def _json_line(result: JobResult) -> bytes:
    return result.model_dump_json(exclude_none=True).encode() + b"\n"


def _rows(result: JobResult) -> bytes:
    """Return one row for each box."""
    return b"".join(map(_row, BoxRow.of(result.model_dump())))


def _row(values: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


async def _joined(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in others:
        yield piece

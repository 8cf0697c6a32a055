"""The requests that a client can send for jobs. The synchronous and the asynchronous client send the same requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import BinaryIO
from urllib.parse import quote

from serve_app.client import answers
from serve_app.client.requests import ApiRequest, to_json
from serve_app.schemas.jobs import JobItems, JobList, JobSpec, JobStatus
from serve_app.types import Json


def create(spec: JobSpec | Json) -> ApiRequest[JobStatus]:
    """Return the request that adds a job."""
    return ApiRequest("POST", "/jobs", answers.model_of(JobStatus), {"json": to_json(spec)})


def put(spec: JobSpec | Json) -> ApiRequest[JobStatus]:
    """Return the request that adds a job unless the same job exists. Raise ValueError if ``spec`` has no id."""
    body = to_json(spec)
    job_id = body.get("id")
    if not isinstance(job_id, str):
        raise ValueError("id: it is missing; set it, so that the same job is not added twice")
    return ApiRequest("PUT", path(job_id), answers.model_of(JobStatus), {"json": body})


def list_jobs(state: str | None, tag: str | None, limit: int, after: str | None) -> ApiRequest[JobList]:
    """Return the request for a page of jobs, the newest first."""
    options = _given(state=state, tag=tag, limit=limit, after=after)
    return ApiRequest("GET", "/jobs", answers.model_of(JobList), {"params": options})


def status(job_id: str) -> ApiRequest[JobStatus]:
    """Return the request for a job's status."""
    return ApiRequest("GET", path(job_id), answers.model_of(JobStatus))


def items(job_id: str, state: str | None, after: int | None, limit: int) -> ApiRequest[JobItems]:
    """Return the request for a page of a job's items."""
    options = _given(state=state, after=after, limit=limit)
    return ApiRequest("GET", path(job_id, "items"), answers.model_of(JobItems), {"params": options})


def change(job_id: str, name: str) -> ApiRequest[JobStatus]:
    """Return the request for a change: ``cancel``, ``pause``, ``resume`` or ``start``."""
    return ApiRequest("POST", path(job_id, name), answers.model_of(JobStatus))


def retry(job_id: str, codes: Iterable[str] | None) -> ApiRequest[JobStatus]:
    """Return the request that tries failed items again. ``codes`` are the codes of their errors; None means all."""
    body = {"items": "failed" if codes is None else list(codes)}
    return ApiRequest("POST", path(job_id, "retry"), answers.model_of(JobStatus), {"json": body})


def delete(job_id: str) -> ApiRequest[None]:
    """Return the request that deletes a job."""
    return ApiRequest("DELETE", path(job_id), answers.check_deleted)


def put_file(job_id: str, name: str, content: BinaryIO | AsyncIterator[bytes]) -> ApiRequest[None]:
    """Return the request that uploads a file to a job whose source is ``upload``."""
    options = {"content": content, "headers": {"Content-Type": "application/octet-stream"}}
    return ApiRequest("PUT", path(job_id, "files", quote(name, safe="")), answers.check, options)


def image(job_id: str, item: int, boxes: bool) -> ApiRequest[bytes]:
    """Return the request for an item's image as a JPEG."""
    return ApiRequest("GET", path(job_id, "items", str(item), "image"), answers.jpeg_of, {"params": {"boxes": boxes}})


def results(job_id: str, kind: str) -> ApiRequest[None]:
    """Return the request for the results of a job in a format. ``read`` only checks the status of the response."""
    return ApiRequest("GET", path(job_id, "results"), answers.check, {"params": {"format": kind}})


def set_owner(job_id: str, owner: str) -> ApiRequest[JobStatus]:
    """Return the request that gives a job without an owner an owner."""
    return ApiRequest("PUT", path(job_id, "owner"), answers.model_of(JobStatus), {"json": {"owner": owner}})


def path(job_id: str, *more: str) -> str:
    """Return the path of a job, such as ``/jobs/night/events`` for ``night`` and ``events``."""
    return "/".join(("/jobs", quote(job_id, safe=""), *more))


def _given(**options: str | int | None) -> Json:
    return {name: value for name, value in options.items() if value is not None}

"""The routes that create jobs and take their files. They read request bodies themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from serve_app.api import examples
from serve_app.api.access.middleware import Who
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Jobs
from serve_app.api.bodies import check_json, read_in_time
from serve_app.api.preferences import MAX_WAIT_S, preferences_of
from serve_app.api.uploads import FormPart, body_pieces, boundary_of, form_parts, sized
from serve_app.config import AppArgs
from serve_app.errors import InvalidParameter, Malformed, ServeAppError, TooLarge
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.jobs import AT_REST, JobSpec, JobStatus
from serve_app.types import Json, Principal

MAX_SPEC_BYTES = 16 * 2**20  # enough for 10,000 URLs of 1,600 bytes
MAX_FILES = 10_000  # in one request
_MAX_PART_BYTES = 2**20  # for the part job of a form
_EVENTS_WAIT_S = 10.0

JobId = Annotated[str, Path(description="The job's id.", examples=[examples.JOB_ID])]

_REQUEST_BODY = {
    "required": True,
    "description": "JSON, or a multipart form with files. A form has a part `job` with the JSON, in which `source` may "
    "be left out, and then one part `file` for each file. Without a part `job`, the job has the default settings.",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}, "example": examples.JOB},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "job": {"type": "string", "contentMediaType": "application/json"},
                    "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                },
            }
        },
    },
}
_PREFER: Json = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": f"`wait=N` waits up to N seconds, and at most {MAX_WAIT_S}, for a short job. If the job has ended "
    "then, the response is 200.",
    "schema": {"type": "string"},
}
_EXTRA = {"requestBody": _REQUEST_BODY, "parameters": [_PREFER]}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    403: {"model": ErrorResponse, "description": "`forbidden`; or `urls_disabled`: fetching images by URL is disabled"},
    409: {"model": ErrorResponse, "description": "`conflict`: another job has this id"},
    413: {
        "model": ErrorResponse,
        "description": "`too_large`: the JSON is larger than 16 MiB, or there are too many files",
    },
    422: {"model": ErrorResponse, "description": "`invalid_parameter` or `invalid_source`"},
    503: {
        "model": ErrorResponse,
        "description": "`overloaded`: `jobs.max_jobs` or `jobs.max_open_per_key` is reached; or `unavailable`",
    },
    507: {"model": ErrorResponse, "description": "`no_space`: the disk is full, or `jobs.max_disk_gib` is reached"},
}
_FILE_REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "`not_found`: the API key may see no job with this id"},
    409: {"model": ErrorResponse, "description": "`conflict`: the job has started already"},
    422: {"model": ErrorResponse, "description": "`invalid_parameter`: the name is not the name of a file"},
    503: {"model": ErrorResponse, "description": "`unavailable` or `overloaded`, with `Retry-After`"},
    507: _REFUSALS[507],
}
_DONE: dict[int | str, dict[str, Any]] = {
    200: {
        "model": JobStatus,
        "description": "The job has ended within the time of `Prefer: wait`; or `PUT` found the same job",
        "content": {"application/json": {"example": examples.JOB_STATUS}},
    }
}
_ACCEPTED = _DONE | {202: {"model": JobStatus, **examples.of_response(examples.JOB_STATUS)[200]}}


def router(jobs: Jobs, args: AppArgs) -> Router:
    """Return the routes that create jobs, and the one that uploads a file."""
    routes = Router(permission="jobs", reads_own_body=True, tags=["jobs"], prefix="/jobs")
    deadline_s = args.limits.deadline_s

    @routes.post(
        "",
        summary="Start a job",
        status_code=202,
        response_model=None,
        responses=_ACCEPTED | _REFUSALS,
        openapi_extra=_EXTRA,
    )
    async def create_job(request: Request, who: Who) -> Response:
        """Start a job over many images. When the response arrives, the job is stored, and no restart loses it.

        A job whose source has the type `upload` starts when the files of the form are there. Without a form, it waits
        for `PUT /jobs/{id}/files/{name}` and `POST /jobs/{id}/start`.
        """
        status, _ = await _Submission(jobs, who, None).read(request, deadline_s)
        return await _accepted(jobs, who, request, status, is_new=True)

    @routes.put(
        "/{job_id}",
        summary="Start a job under an id",
        status_code=202,
        response_model=None,
        responses=_ACCEPTED | _REFUSALS,
        openapi_extra=_EXTRA,
    )
    async def put_job(job_id: JobId, request: Request, who: Who) -> Response:
        """Start a job under this id, unless the same job is there already. So a client may repeat the request.

        If another job has this id, the request is refused, and nothing changes. If a form is refused or interrupted
        after the job was created, the job waits for its files in the state `collecting`: repeat the request, or delete
        the job.
        """
        status, is_new = await _Submission(jobs, who, job_id).read(request, deadline_s)
        return await _accepted(jobs, who, request, status, is_new)

    @routes.put(
        "/{job_id}/files/{name}",
        summary="Upload a file of a job",
        status_code=204,
        responses=_FILE_REFUSALS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def put_job_file(
        job_id: JobId,
        name: Annotated[str, Path(description="The file's name, which the results repeat.", examples=["dock.jpg"])],
        request: Request,
        who: Who,
    ) -> None:
        """Add a file to a job that has not started, or replace the file. The body is the file, of any size."""
        await put_file(jobs, who, job_id, name, body_pieces(request, deadline_s))

    return routes


async def put_file(jobs: Jobs, who: Principal, job_id: str, name: str, pieces: AsyncIterator[bytes]) -> None:
    """Upload a file to a job in pieces of up to 1 MiB. Raise the errors of ``Jobs.put_file``."""
    async for offset, data, is_last in sized(pieces):
        await jobs.put_file(job_id, who, name, offset, data, last=is_last)


async def start_with_files(jobs: Jobs, who: Principal, spec: JobSpec, files: dict[str, bytes]) -> JobStatus:
    """Create a job, upload its files, and start it. If that fails, leave no job behind."""
    await jobs.create(spec, who)
    try:
        for name, data in files.items():
            await put_file(jobs, who, spec.id, name, _once(data))
        return await jobs.start(spec.id, who)
    except BaseException:  # including the cancellation when the client disconnects
        await _discard(jobs, who, spec.id)
        raise


def headers_of(status: JobStatus) -> dict[str, str]:
    """Return the headers with which a response says where the client finds an accepted job."""
    return {"Location": f"/jobs/{status.job_id}", "Retry-After": "1"}


class _Submission:
    """One request that creates a job. ``job_id`` is the id in the path, if there is one."""

    def __init__(self, jobs: Jobs, who: Principal, job_id: str | None) -> None:
        self._jobs = jobs
        self._who = who
        self._job_id = job_id

    async def read(self, request: Request, deadline_s: float) -> tuple[JobStatus, bool]:
        """Create the job that the body describes. Return its status, and whether it is new."""
        boundary = boundary_of(request)
        if boundary is None:
            body = await read_in_time(request, MAX_SPEC_BYTES, "json_body", deadline_s)
            return await self._add(self._parse(check_json(request, body)))
        return await self._read_form(form_parts(body_pieces(request, deadline_s), boundary))

    async def _read_form(self, parts: AsyncIterator[FormPart]) -> tuple[JobStatus, bool]:
        status: JobStatus | None = None
        is_new = False
        names: set[str] = set()
        try:
            async for part in parts:
                if part.name not in {"job", "file"}:
                    raise InvalidParameter(f"{part.name[:64]!r}: there is no such part; use the parts job and file")
                if part.name == "job":
                    if status is not None:
                        raise InvalidParameter("job: send this part once, before the files")
                    status, is_new = await self._add(self._parse_part(await _read_part(part)))
                    continue
                if status is None:
                    status, is_new = await self._add(self._parse_part(b"{}"))
                if status.state == "collecting":  # else a repeated request, whose files are there already
                    await self._put_part(part, status.job_id, names)
            if status is None:
                raise Malformed(
                    "the multipart body has neither a part job nor a part file; send the files as parts file"
                )
            if names:
                status = await self._jobs.start(status.job_id, self._who)
        except BaseException:  # including the cancellation when the client disconnects
            # A job under an id in the path stays: a repeated request may be sending its files, or have started it.
            if status is not None and self._job_id is None:
                await _discard(self._jobs, self._who, status.job_id)
            raise
        return status, is_new

    async def _put_part(self, part: FormPart, job_id: str, names: set[str]) -> None:
        if not part.filename:
            async for _ in part.pieces:
                raise InvalidParameter("file: a part has no file name; give each part file a name of its own")
            return  # an empty form input
        if part.filename in names:
            raise InvalidParameter(f"file: two parts have the name {part.filename[:64]!r}; give each file its own name")
        names.add(part.filename)
        if len(names) > MAX_FILES:
            raise TooLarge(
                f"job_files: the form has more than {MAX_FILES} files, which is the limit; send the others with "
                "PUT /jobs/{id}/files/{name}",
                limit="job_files",
            )
        await put_file(self._jobs, self._who, job_id, part.filename, part.pieces)

    async def _add(self, spec: JobSpec) -> tuple[JobStatus, bool]:
        if self._job_id is None:
            return await self._jobs.create(spec, self._who), True
        return await self._jobs.put(spec, self._who)

    def _parse_part(self, body: bytes) -> JobSpec:
        """Return the specification in the part ``job`` of a form, whose source is the form's files."""
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            raise Malformed("job: the part is not valid JSON") from None
        if isinstance(fields, dict):
            fields.setdefault("source", {"type": "upload"})
        spec = self._parse(json.dumps(fields).encode())
        if spec.source.type != "upload":
            raise InvalidParameter("source: the job of a form needs the type upload; send JSON for another source")
        return spec

    def _parse(self, body: bytes) -> JobSpec:
        try:
            spec = JobSpec.model_validate_json(body)
            if self._job_id is None:
                return spec
            if "id" in spec.model_fields_set and spec.id != self._job_id:
                raise InvalidParameter("id: it differs from the id in the path; leave it out or use the id in the path")
            return JobSpec.model_validate(dict(spec) | {"id": self._job_id})
        except ValidationError as exc:  # raised in the form in which FastAPI raises it for other routes
            found = exc.errors(include_url=False, include_input=False)
            raise RequestValidationError([{**problem, "loc": ("body", *problem["loc"])} for problem in found]) from None


async def _read_part(part: FormPart) -> bytes:
    body = b""
    async for piece in part.pieces:
        body += piece
        if len(body) > _MAX_PART_BYTES:
            raise TooLarge(
                f"json_body: the part job is larger than {_MAX_PART_BYTES >> 20} MiB, which is the limit; send less",
                limit="json_body",
            )
    return body


async def _accepted(jobs: Jobs, who: Principal, request: Request, status: JobStatus, is_new: bool) -> Response:
    """Return the response to a request that created a job, after the time that the client would wait for its end."""
    wait_s, headers = preferences_of(request).wait_s, headers_of(status)
    if wait_s:
        headers["Preference-Applied"] = f"wait={wait_s}"
        status = await _wait_for_end(jobs, who, status, wait_s)
    is_done = not is_new or (wait_s > 0 and status.state in AT_REST)
    if is_done:
        del headers["Retry-After"]
    return Response(status.model_dump_json(), 200 if is_done else 202, headers, "application/json")


async def _wait_for_end(jobs: Jobs, who: Principal, status: JobStatus, wait_s: float) -> JobStatus:
    """Return the status of a job when it has ended, or after ``wait_s`` seconds."""
    after: int | None = -1
    with suppress(TimeoutError, ServeAppError):  # the job is accepted, so an error here does not refuse the request
        async with asyncio.timeout(wait_s):
            while status.state not in AT_REST:
                page = await jobs.events(status.job_id, who, after, min(wait_s, _EVENTS_WAIT_S))
                after = page.events[-1].event_id if page.events else page.last_id
                status = await jobs.status(status.job_id, who)
    return status


async def _discard(jobs: Jobs, who: Principal, job_id: str) -> None:
    """Delete a job whose files are incomplete. A job that cannot be deleted waits for its files, and can be deleted."""
    with suppress(ServeAppError):
        await asyncio.shield(jobs.delete(job_id, who))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data

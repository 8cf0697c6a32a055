"""The routes below ``/jobs``, which show and control jobs, and return their results and events."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, get_args

from fastapi import Header, Path, Query, Request, Response, WebSocket
from fastapi.responses import StreamingResponse

from serve_app.api import examples
from serve_app.api.access.middleware import Who, principal_of
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Jobs
from serve_app.api.events import After, Followers, Read, Types, parse_types, send_events, sse_response
from serve_app.api.job_results import MEDIA_TYPES, results_response
from serve_app.api.job_submission import JobId
from serve_app.api.ranges import matches
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.jobs import Format, ItemState, JobEventType, JobItems, JobList, JobState, JobStatus, Retry
from serve_app.types import EventPage, Principal

_TYPES = get_args(JobEventType)
_FILE = {"type": "string", "format": "binary"}

_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "`not_found`: the API key may see no job with this id"},
    503: {"model": ErrorResponse, "description": "`unavailable` or `overloaded`, with `Retry-After`"},
}
_EXPIRED: dict[int | str, dict[str, Any]] = {
    410: {"model": ErrorResponse, "description": "`expired`: only the counts of this job are kept"}
}
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Nothing has changed since the client's copy"}}
_RESULTS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {kind: {"schema": _FILE} for kind in MEDIA_TYPES.values()}
        | {MEDIA_TYPES["coco"]: {"schema": {"type": "object"}, "example": examples.COCO}}
    },
    206: {"description": "The requested range of the file"},
    409: {"model": ErrorResponse, "description": "`not_finished`: this format needs the end of the job"},
    416: {"model": ErrorResponse, "description": "`invalid_parameter`: the file does not have this range"},
}
_NO_IMAGE: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "`not_found`; or `missing`: the file or object is gone"},
    409: {"model": ErrorResponse, "description": "`changed`: the file or object was replaced after it was listed"},
    422: {"model": ErrorResponse, "description": "`undecodable`, `unreadable` or `unfetchable`"},
}
_ACCEPTED = examples.of_response(examples.JOB_STATUS, status_code=202) | _ERRORS
_CHANGED = _ACCEPTED | {409: {"model": ErrorResponse, "description": "`conflict`: the job's state does not allow it"}}


def router(jobs: Jobs, followers: Followers) -> Router:
    """Return the routes of existing jobs. ``job_submission`` has the routes that create them."""
    routes = Router(permission="jobs", tags=["jobs"], prefix="/jobs")

    @routes.head("", include_in_schema=False)
    @routes.get("", summary="List jobs", responses=examples.of_response(examples.JOBS) | _ERRORS)
    async def list_jobs(
        who: Who,
        state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
        tag: Annotated[
            str | None, Query(max_length=512, description="Only jobs with this tag: `site`, or `site=dock`.")
        ] = None,
        after: Annotated[
            str | None, Query(max_length=64, description="The id of a job. Return the jobs that are older.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
    ) -> JobList:
        """Return the status of the jobs that the API key may see, the newest first."""
        return await jobs.all(who, state=state, tag=tag, after=after, limit=limit)

    @routes.head("/{job_id}", include_in_schema=False)
    @routes.get(
        "/{job_id}",
        summary="Show one job",
        response_model=None,
        responses={200: {"model": JobStatus, **examples.of_response(examples.JOB_STATUS)[200]}}
        | _NOT_MODIFIED
        | _ERRORS,
    )
    async def show_job(
        job_id: JobId, who: Who, if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None
    ) -> Response:
        """Return a job's state, its progress and its counters. The response has an `ETag`."""
        body = (await jobs.status(job_id, who)).model_dump_json().encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if matches(if_none_match, tag):
            return Response(status_code=304, headers={"ETag": tag})
        return Response(body, headers={"ETag": tag, "Cache-Control": "no-cache"}, media_type="application/json")

    @routes.delete("/{job_id}", summary="Delete a job", status_code=204, responses=_ERRORS)
    async def delete_job(job_id: JobId, who: Who) -> None:
        """Stop a job, and forget it with all its results and files. Files that it wrote elsewhere are kept."""
        await jobs.delete(job_id, who)

    @routes.post("/{job_id}/cancel", summary="Cancel a job", status_code=202, responses=_ACCEPTED)
    async def cancel_job(job_id: JobId, who: Who) -> JobStatus:
        """End a job before its items are done. The results so far stay readable."""
        return await jobs.cancel(job_id, who)

    @routes.post("/{job_id}/pause", summary="Pause a job", status_code=202, responses=_CHANGED)
    async def pause_job(job_id: JobId, who: Who) -> JobStatus:
        """Begin no new items of a job until it is resumed."""
        return await jobs.pause(job_id, who)

    @routes.post("/{job_id}/resume", summary="Resume a job", status_code=202, responses=_CHANGED)
    async def resume_job(job_id: JobId, who: Who) -> JobStatus:
        """Continue a paused job with the items that are not done."""
        return await jobs.resume(job_id, who)

    @routes.post(
        "/{job_id}/retry",
        summary="Retry failed items",
        status_code=202,
        responses=_CHANGED | _EXPIRED,
        openapi_extra=examples.of_request(examples.RETRY),
    )
    async def retry_job(job_id: JobId, who: Who, retry: Retry) -> JobStatus:
        """Try failed items of a job again. The new results replace the failures.

        If the job was cancelled or has failed, it also continues with all items that are not done.
        """
        return await jobs.retry(job_id, who, retry)

    @routes.post("/{job_id}/start", summary="Start a job with uploaded files", status_code=202, responses=_CHANGED)
    async def start_job(job_id: JobId, who: Who) -> JobStatus:
        """Start a job whose files are uploaded. After that, it takes no further files."""
        return await jobs.start(job_id, who)

    @routes.head("/{job_id}/items", include_in_schema=False)
    @routes.get(
        "/{job_id}/items",
        summary="List the items of a job",
        responses=examples.of_response(examples.JOB_ITEMS) | _ERRORS | _EXPIRED,
    )
    async def list_items(
        job_id: JobId,
        who: Who,
        state: Annotated[ItemState | None, Query(description="Only items in this state.")] = None,
        after: Annotated[int | None, Query(ge=-1, description="Only items with a higher number.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> JobItems:
        """Return the items that are done, by number. Each has its detections, or the error with which it failed."""
        return await jobs.items(job_id, who, state=state, after=after, limit=limit)

    @routes.head("/{job_id}/results", include_in_schema=False)
    @routes.get(
        "/{job_id}/results",
        summary="Download the results of a job",
        response_class=StreamingResponse,
        responses=_RESULTS | _NOT_MODIFIED | _ERRORS | _EXPIRED,
    )
    async def download_results(
        job_id: JobId,
        who: Who,
        request: Request,
        kind: Annotated[Format, Query(alias="format", description="The format of the file.")] = "jsonl",
    ) -> Response:
        """Return the results of all items that succeeded, as a file. An interrupted download can continue with `Range`.

        Before the job has ended, `jsonl` and `csv` return the results so far. The header `X-Job-State` says which state
        the job has.
        """
        return await results_response(jobs, request, job_id, who, kind)

    @routes.head("/{job_id}/items/{item}/image", include_in_schema=False)
    @routes.get(
        "/{job_id}/items/{item}/image",
        summary="Show the image of an item",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}} | _ERRORS | _EXPIRED | _NO_IMAGE,
    )
    async def show_item_image(
        job_id: JobId,
        item: Annotated[int, Path(ge=0, description="The item's number.", examples=[0])],
        who: Who,
        boxes: Annotated[bool, Query(description="Draw a box around each detection.")] = True,
    ) -> Response:
        """Read the image of an item from the job's source, and return it as a JPEG."""
        picture = await jobs.picture(job_id, who, item, boxes=boxes)
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    @routes.get(
        "/{job_id}/events",
        summary="Follow the events of a job",
        response_class=StreamingResponse,
        responses=_ERRORS | examples.of_response(examples.JOB_EVENTS, media_type="text/event-stream"),
    )
    async def follow_job(
        job_id: JobId,
        who: Who,
        types: Types = [],  # noqa: B006  # FastAPI copies it
        after: After = None,
        last_event_id: Annotated[int | None, Header(ge=-1)] = None,
    ) -> StreamingResponse:
        """Send the job's events as Server-Sent Events. A WebSocket at the same path sends the same events.

        The types are `state` and `progress`. The response has no end. A browser that reconnects continues after the
        last event that it received.
        """
        after = after if last_event_id is None else last_event_id
        return await sse_response(reader(job_id, who), parse_types(types, _TYPES), after, followers)

    @routes.websocket("/{job_id}/events")
    async def job_events_by_websocket(
        socket: WebSocket,
        job_id: JobId,
        types: Types = [],  # noqa: B006
        after: After = None,
    ) -> None:
        await send_events(socket, reader(job_id, principal_of(socket)), types, _TYPES, after, followers)

    def reader(job_id: str, who: Principal) -> Read:
        async def read(after: int | None, within_s: float) -> EventPage:
            return await jobs.events(job_id, who, after, within_s)

        return read

    return routes

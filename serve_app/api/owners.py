"""The routes with which an administrator gives a stream or a job an owner."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path

from serve_app.api import examples
from serve_app.api.access.middleware import Who
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Jobs, Streams
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.jobs import JobStatus
from serve_app.schemas.owners import NewOwner
from serve_app.schemas.streams import StreamStatus

_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "`not_found`: no stream or job has this id"},
    409: {"model": ErrorResponse, "description": "`conflict`: it has another owner"},
    503: {"model": ErrorResponse, "description": "`unavailable` or `overloaded`, with `Retry-After`"},
}


def router(streams: Streams, jobs: Jobs) -> Router:
    """Return the routes that set an owner. They are only for administrators."""
    routes = Router(permission="admin")

    @routes.put(
        "/streams/{stream_id}/owner",
        tags=["streams"],
        summary="Give a stream an owner",
        responses=examples.of_response(examples.STREAM_STATUS | {"owner": examples.KEY_NAME}) | _ERRORS,
        openapi_extra=examples.of_request(examples.NEW_OWNER),
    )
    async def set_stream_owner(
        stream_id: Annotated[str, Path(description="The stream's id.", examples=[examples.STREAM_ID])],
        owner: NewOwner,
        who: Who,
    ) -> StreamStatus:
        """Give a stream that has no owner an owner, so that other keys no longer see it. An owner cannot change."""
        return await streams.set_owner(stream_id, who, owner.owner)

    @routes.put(
        "/jobs/{job_id}/owner",
        tags=["jobs"],
        summary="Give a job an owner",
        responses=examples.of_response(examples.JOB_STATUS | {"owner": examples.KEY_NAME}) | _ERRORS,
        openapi_extra=examples.of_request(examples.NEW_OWNER),
    )
    async def set_job_owner(
        job_id: Annotated[str, Path(description="The job's id.", examples=[examples.JOB_ID])], owner: NewOwner, who: Who
    ) -> JobStatus:
        """Give a job that has no owner an owner, so that other keys no longer see it. An owner cannot change."""
        return await jobs.set_owner(job_id, who, owner.owner)

    return routes

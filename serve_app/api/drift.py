"""The routes below ``/drift``, which say whether images and detections look different than before."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request

from serve_app.api import examples
from serve_app.api.access.middleware import Who, check_permission
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Drift, Streams
from serve_app.errors import Forbidden, NotFound
from serve_app.schemas.drift import DriftHistograms, DriftReport, NewReference, ReferenceFile, SourceDrift
from serve_app.schemas.errors import ErrorResponse
from serve_app.types import DEFAULT_MODEL, Principal

_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "`not_found`: the API key may see no such source"},
    503: {"model": ErrorResponse, "description": "`unavailable`, with `Retry-After`"},
}

Model = Annotated[str, Query(description="The name by which requests select the model.", max_length=64)]
Source = Annotated[
    str, Query(description="The source, such as `stream/gate`.", max_length=128, examples=[examples.DRIFT_SOURCE])
]


def router(drift: Drift, streams: Streams) -> Router:
    """Return the routes that read the drift."""
    routes = Router(permission="detect", tags=["drift"], prefix="/drift")

    @routes.head("", include_in_schema=False)
    @routes.get("", summary="Show the drift", responses=examples.of_response(examples.DRIFT) | {503: _ERRORS[503]})
    async def show_drift(who: Who, request: Request) -> DriftReport:
        """Return, for each source of images, whether its images and detections differ from its reference.

        A key sees its own requests and, with the permission `streams`, the streams that it may see. A key with the
        permission `admin` sees everything.
        """
        sources = await drift.sources()
        if not who.is_admin:
            visible = await visible_sources(who, request, streams)
            sources = [one for one in sources if one.source in visible]
        return DriftReport(sources=sources)

    @routes.head("/histograms", include_in_schema=False)
    @routes.get(
        "/histograms",
        summary="Show the histograms behind the drift",
        responses=examples.of_response(examples.DRIFT_HISTOGRAMS) | _ERRORS,
    )
    async def show_histograms(
        who: Who, request: Request, source: Source, model: Model = DEFAULT_MODEL
    ) -> DriftHistograms:
        """Return the shares of each feature's values in the reference and in the current window of a source."""
        if not who.is_admin and source not in await visible_sources(who, request, streams):
            raise NotFound(f"no image of the source {source!r} was seen with the model {model!r}")
        return await drift.histograms(model, source)

    return routes


def admin_router(drift: Drift) -> Router:
    """Return the routes that read and change references."""
    routes = Router(permission="admin", tags=["drift"], prefix="/drift/reference")

    @routes.head("", include_in_schema=False)
    @routes.get("", summary="Save a reference", responses=examples.of_response(examples.REFERENCE) | _ERRORS)
    async def show_reference(source: Source, model: Model = DEFAULT_MODEL) -> ReferenceFile:
        """Return the reference of a source, which `PUT` accepts again."""
        return await drift.reference(model, source)

    @routes.put(
        "",
        summary="Set a reference",
        responses=examples.of_response(examples.DRIFT["sources"][0])
        | _ERRORS
        | {422: {"model": ErrorResponse, "description": "`invalid_parameter`: too few images"}},
        openapi_extra=examples.of_request(examples.NEW_REFERENCE),
    )
    async def set_reference(new: NewReference) -> SourceDrift:
        """Compare a source with the images of a range of time, or of a file, from now on.

        Images are kept for 35 days, as histograms by hour. A drift of the source ends.
        """
        return await drift.set_reference(new)

    return routes


async def visible_sources(who: Principal, request: Request, streams: Streams) -> set[str]:
    """Return the sources that a client without the permission ``admin`` may see."""
    own = {f"key/{who.name}"}
    try:
        check_permission(request, "streams")
    except Forbidden:
        return own
    return own | {f"stream/{stream_id}" for stream_id in await streams.states(who)}

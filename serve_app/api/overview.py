"""The route ``GET /overview``, which the page at ``/console`` asks every few seconds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request

from serve_app.api import examples
from serve_app.api.access.keys import Permission
from serve_app.api.access.middleware import Who, check_permission
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Backend, Drift, Jobs, Streams
from serve_app.api.drift import visible_sources
from serve_app.errors import ServeAppError
from serve_app.schemas.overview import DriftingSource, DriftOverview, Overview
from serve_app.types import Principal

_MAX_JOBS = 100
_MAX_DRIFTING = 32
_PART_TIMEOUT_S = 5.0

Part = TypeVar("Part")


def router(backend: Backend, streams: Streams, jobs: Jobs, drift: Drift) -> Router:
    """Return the route of the overview. Each key gets the parts for which it has the permission."""
    routes = Router(permission="any", tags=["health"])

    @routes.head("/overview", include_in_schema=False)
    @routes.get("/overview", summary="Show what the service does", responses=examples.of_response(examples.OVERVIEW))
    async def show_overview(request: Request, who: Who) -> Overview:
        """Return the models, replicas, rates, times and refusals, and the numbers of streams and jobs by state.

        The figures are those of all replicas, at most a few seconds old. They start at zero when a replica starts. The
        streams, jobs and sources are only those that the API key may see.
        """
        figures, of_streams, of_jobs, of_drift = await asyncio.gather(
            backend.figures(),
            _part(request, "streams", lambda: _states_of_streams(streams, who)),
            _part(request, "jobs", lambda: _states_of_jobs(jobs, who)),
            _part(request, "detect", lambda: _drift(drift, streams, who, request)),
        )
        dashboard_url = backend.dashboard_url() if who.is_admin else None
        found = {"streams": of_streams, "jobs": of_jobs, "drift": of_drift, "dashboard_url": dashboard_url}
        return figures.overview().model_copy(update=found)

    return routes


async def _part(request: Request, permission: Permission, read: Callable[[], Awaitable[Part]]) -> Part | None:
    """Return a part of the overview, or None if the key lacks the permission or the part cannot be read."""
    try:
        check_permission(request, permission)
        async with asyncio.timeout(_PART_TIMEOUT_S):
            return await read()
    except (ServeAppError, TimeoutError):
        return None


async def _states_of_streams(streams: Streams, who: Principal) -> dict[str, int]:
    return dict(Counter((await streams.states(who)).values()))


async def _states_of_jobs(jobs: Jobs, who: Principal) -> dict[str, int]:
    newest = await jobs.all(who, state=None, tag=None, after=None, limit=_MAX_JOBS)
    return dict(Counter(job.state for job in newest.jobs))


async def _drift(drift: Drift, streams: Streams, who: Principal, request: Request) -> DriftOverview:
    sources = await drift.sources()
    if not who.is_admin:
        visible = await visible_sources(who, request, streams)
        sources = [one for one in sources if one.source in visible]
    drifting = [one for one in sources if one.state == "drifting"][:_MAX_DRIFTING]
    return DriftOverview(
        states=dict(Counter(one.state for one in sources)),
        drifting=[DriftingSource(model=one.model, source=one.source, features=one.drifting) for one in drifting],
    )

"""``/health`` and ``/livez``: the process answers. ``/readyz``: a warm model answers."""

from __future__ import annotations

from typing import Any

from serve_app.api import examples
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Backend
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.health import HealthResponse, ReadyResponse

_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": ErrorResponse, "description": "`unavailable`: no warm model answers; with `Retry-After`"}
}


def router(backend: Backend) -> Router:
    """Return the routes for load balancers and probes, which present no key."""
    routes = Router(permission=None, tags=["health"])

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health", summary="Check the process", responses=examples.answers(examples.HEALTH))
    async def health() -> HealthResponse:
        """Answer as soon as the process answers HTTP. It says nothing about the models."""
        return HealthResponse()

    @routes.head("/livez", include_in_schema=False)
    @routes.get("/livez", summary="Check liveness", responses=examples.answers(examples.HEALTH))
    async def livez() -> HealthResponse:
        """Answer as `/health` does: an orchestrator restarts the process when it does not."""
        return HealthResponse()

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", summary="Check readiness", responses=examples.answers(examples.READY) | _NOT_READY)
    async def readyz() -> ReadyResponse:
        """Answer 200 when a warm model answers: a load balancer sends traffic then."""
        state = await backend.ready()
        engine = state.model.engine
        return ReadyResponse(
            model=engine.name,
            version=state.model.version,
            engine=engine.engine,
            precision=engine.precision,
            refused_change=bool(state.refused_change),
        )

    return routes

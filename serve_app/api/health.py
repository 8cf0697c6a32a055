"""The health routes.

``/health`` and ``/livez`` check the process, and ``/readyz`` checks that a warm model responds.
"""

from __future__ import annotations

from typing import Any

from serve_app.api import examples
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Backend
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.health import HealthResponse, ReadyResponse

_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": ErrorResponse, "description": "`unavailable`: no warm model responds; with `Retry-After`"}
}


def router(backend: Backend) -> Router:
    """Return the health routes, which need no API key."""
    routes = Router(permission=None, tags=["health"])

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health", summary="Check the process", responses=examples.of_response(examples.HEALTH))
    async def health() -> HealthResponse:
        """Respond 200 as soon as the process serves HTTP. The response says nothing about the models."""
        return HealthResponse()

    @routes.head("/livez", include_in_schema=False)
    @routes.get("/livez", summary="Check liveness", responses=examples.of_response(examples.HEALTH))
    async def livez() -> HealthResponse:
        """Respond like `/health`. If this check fails, an orchestrator should restart the process."""
        return HealthResponse()

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", summary="Check readiness", responses=examples.of_response(examples.READY) | _NOT_READY)
    async def readyz() -> ReadyResponse:
        """Respond 200 while the default model is loaded and warm. Only then should a load balancer send traffic."""
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

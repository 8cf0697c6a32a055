"""``/health``, ``/livez``: the process answers. ``/readyz``: a warm model answers."""

from __future__ import annotations

from fastapi import APIRouter

from serve_app.api.backend import Pipeline
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.health import HealthResponse, ReadyResponse


def router(pipeline: Pipeline) -> APIRouter:
    """Routes for load balancers and probes."""
    routes = APIRouter(tags=["health"])

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health() -> HealthResponse:
        """The process answers."""
        return HealthResponse()

    @routes.head("/livez", include_in_schema=False)
    @routes.get("/livez")
    async def livez() -> HealthResponse:
        """The process answers: restart it when it does not."""
        return HealthResponse()

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", responses={503: {"model": ErrorResponse}})
    async def readyz() -> ReadyResponse:
        """A warm model answers: send traffic."""
        state = await pipeline.ready()
        engine = state.model.engine
        return ReadyResponse(
            model=engine.name,
            version=state.model.version,
            engine=engine.engine,
            precision=engine.precision,
            refused_change=bool(state.refused_change),
        )

    return routes

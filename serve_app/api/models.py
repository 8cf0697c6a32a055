"""``GET /models``: what ``model=`` may name."""

from __future__ import annotations

from fastapi import APIRouter

from serve_app.api.backend import Pipeline
from serve_app.schemas.models import ModelList


def router(pipeline: Pipeline) -> APIRouter:
    """The models of a pipeline."""
    routes = APIRouter(tags=["models"])

    @routes.get("/models")
    async def models() -> ModelList:
        """Every model, the default one first."""
        return ModelList(models=await pipeline.models())

    return routes

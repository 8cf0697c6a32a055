"""The route ``GET /models``, which lists the models that the parameter ``model`` may name."""

from __future__ import annotations

from serve_app.api import examples
from serve_app.api.access.permissions import Router
from serve_app.api.backend import Backend
from serve_app.schemas.models import ModelList


def router(backend: Backend) -> Router:
    """Return the route that lists the models."""
    routes = Router(permission="detect", tags=["models"])

    @routes.head("/models", include_in_schema=False)
    @routes.get("/models", summary="List the models", responses=examples.of_response(examples.MODELS))
    async def list_models() -> ModelList:
        """Return every model that the parameter `model` may name, with its state. The default model comes first."""
        return ModelList(models=await backend.models())

    return routes

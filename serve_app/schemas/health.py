"""The JSON of the health routes."""

from __future__ import annotations

from pydantic import BaseModel, Field


class HealthResponse(BaseModel):
    """The response of `/health` and `/livez`: the process serves HTTP."""

    status: str = "ok"


class ReadyResponse(BaseModel):
    """The response of `/readyz` while the default model is warm, with that model's properties."""

    status: str = "ready"
    model: str
    version: str
    engine: str
    precision: str
    refused_change: bool = Field(
        default=False, description="Whether the last change of the model failed: see `GET /models`."
    )

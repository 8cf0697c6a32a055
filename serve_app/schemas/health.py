"""The JSON of the health routes."""

from __future__ import annotations

from pydantic import BaseModel, Field


class HealthResponse(BaseModel):
    """The response that shows that the process serves HTTP."""

    status: str = "ok"


class ReadyResponse(BaseModel):
    """The response while the default model is warm, with the properties of that model."""

    status: str = "ready"
    model: str
    version: str
    engine: str
    precision: str
    refused_change: bool = Field(
        default=False, description="Whether the last change of the model failed: see `GET /models`."
    )

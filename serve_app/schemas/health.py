"""The JSON of the health routes."""

from __future__ import annotations

from pydantic import BaseModel, Field


class HealthResponse(BaseModel):
    """The process answers."""

    status: str = "ok"


class ReadyResponse(BaseModel):
    """A warm model answers."""

    status: str = "ready"
    model: str
    version: str
    engine: str
    precision: str
    refused_change: bool = Field(default=False, description="It was to be changed, and could not: see `GET /models`.")

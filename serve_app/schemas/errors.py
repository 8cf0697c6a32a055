"""The JSON of an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.errors import ServeAppError


class ErrorResponse(BaseModel):
    """Every error has this form. ``limit`` is left out where no limit is the reason."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "code": "overloaded",
                "detail": "limits.max_requests: 256 requests are in flight, which is the limit; retry later or raise "
                "it",
                "request_id": "93fba816-25d3-4914-9580-a3058a4fc6a6",
                "limit": "limits.max_requests",
            }
        }
    )

    code: str = Field(description="What went wrong, for programs: see the table of errors in the README.")
    detail: str = Field(description="What went wrong and what to do, for people.")
    request_id: str = Field(description="The request's `X-Request-ID`, sent or made.")
    limit: str = Field(
        "",
        exclude_if=lambda limit: not limit,
        description="The limit that the request was refused for: a setting, or a name in the README's table of limits.",
    )

    @classmethod
    def from_error(cls, error: ServeAppError, request_id: str) -> ErrorResponse:
        """The error as JSON."""
        return cls(code=error.code, detail=error.detail, request_id=request_id, limit=error.limit)

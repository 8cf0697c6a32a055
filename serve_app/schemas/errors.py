"""The JSON form of every error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.errors import ServeAppError


class ErrorResponse(BaseModel):
    """The JSON form of every error. ``limit`` is present only if a limit was reached."""

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

    code: str = Field(description="The error's code, for programs: see the table of errors in the documentation.")
    detail: str = Field(description="A text for people, which says what went wrong and what to do.")
    request_id: str = Field(description="The `X-Request-ID` that the client sent or the server generated.")
    limit: str = Field(
        "",
        exclude_if=lambda limit: not limit,
        description="The limit that was reached: a setting, or a name in the documentation's table of limits.",
    )

    @classmethod
    def from_error(cls, error: ServeAppError, request_id: str) -> ErrorResponse:
        """Return the error in its JSON form."""
        return cls(code=error.code, detail=error.detail, request_id=request_id, limit=error.limit)

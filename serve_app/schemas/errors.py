"""The JSON of an error."""

from __future__ import annotations

from pydantic import BaseModel

from serve_app.errors import ServeAppError


class ErrorResponse(BaseModel):
    """Every error has this form."""

    code: str
    detail: str
    request_id: str

    @classmethod
    def from_error(cls, error: ServeAppError, request_id: str) -> ErrorResponse:
        """The error as JSON."""
        return cls(code=error.code, detail=error.detail, request_id=request_id)

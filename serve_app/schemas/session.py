"""The JSON of ``/session``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class SignIn(BaseModel):
    """The body of ``POST /session``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: SecretStr = Field(min_length=1, max_length=512, description="An API key.")


class SessionStatus(BaseModel):
    """Who makes a request, and what it may do."""

    name: str = Field(description="The name of the API key. Empty if the server has no API keys.")
    permissions: list[Literal["detect", "streams", "jobs", "admin"]]
    expires_at_s: float | None = Field(
        None, description="When the session ends, in seconds since the epoch. Null without a session."
    )
    csrf_token: str | None = Field(
        None,
        description="The value of the header `X-CSRF-Token`, which a request with the session's cookie needs unless it "
        "is a `GET`. Null without a session.",
    )

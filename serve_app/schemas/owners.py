"""The JSON with which an administrator gives a stream or a job an owner."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.types import KEY_NAME


class NewOwner(BaseModel):
    """The new owner of a stream or a job that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    owner: str = Field(pattern=KEY_NAME, description="The name of an API key. All keys with this name are the owner.")

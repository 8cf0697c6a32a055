"""The JSON of inference requests of the Open Inference Protocol, version 2.

The fields are those of https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and of its
extension for binary tensors.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

Parameters = Annotated[dict[str, Any], Field(default_factory=dict)]


class InputTensor(BaseModel):
    """A tensor of a request. Its numbers are in ``data``, or after the JSON if ``binary_data_size`` is set."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters
    data: list[Any] | None = None


class RequestedOutput(BaseModel):
    """An output that the client asks for."""

    name: str
    parameters: Parameters


class InferRequest(BaseModel):
    """A request, which the tensors follow that are sent as binary data."""

    id: str | None = None
    parameters: Parameters
    inputs: list[InputTensor] = Field(min_length=1)
    outputs: list[RequestedOutput] | None = None

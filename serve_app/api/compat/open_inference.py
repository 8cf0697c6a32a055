"""The Open Inference Protocol, version 2 over REST: clients of Triton and KServe, and Ultralytics with a URL.

Each model has two names. Under its own name, it takes model inputs as tensors, and answers with its raw output, reduced
to the candidates. With the suffix ``-image``, it takes encoded images, and answers with what ``POST /detect`` answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

from serve_app import __version__
from serve_app.api import parameters
from serve_app.api.access.middleware import tenant_of
from serve_app.api.access.permissions import Router
from serve_app.api.access.protocols import Protocol
from serve_app.api.backend import Backend
from serve_app.api.bodies import read_body
from serve_app.api.compat import open_inference_wire as wire
from serve_app.api.compat.open_inference_models import VERSION, Served, config_of, find, metadata_of, served
from serve_app.api.compat.pictures import Pictures
from serve_app.api.errors import request_id
from serve_app.compat_args import OpenInferenceArgs
from serve_app.errors import InvalidParameter, ServeAppError, Unavailable
from serve_app.schemas.detect import DetectResponse
from serve_app.types import EngineInfo, Json

_MAX_CONCURRENT_INPUTS = 8  # per request, as in POST /detect
_EXTENSIONS = ["binary_tensor_data", "model_configuration"]
_READY_STATES = {"ready", "changing", "asleep"}  # the next request loads a model that is asleep
_LACKS = "shared memory, tracing, logging, statistics and loading of models"
# The protocol's own parameters of a request. All others are parameters of POST /detect.
_OWN_PARAMETERS = {"binary_data_output", "priority", "sequence_end", "sequence_id", "sequence_start", "timeout"}

T = TypeVar("T")


def routers(backend: Backend, pictures: Pictures, args: OpenInferenceArgs) -> tuple[Router, ...]:
    """Return the routes for inference, and those that describe the server and its models."""
    protocol = Protocol("open_inference", _error, frozenset({"basic"}), args.networks(), ("/v2",), _LACKS)
    options: dict[str, Any] = {"permission": "detect", "protocol": protocol, "include_in_schema": False}
    inference = Router(reads_own_body=True, **options)
    descriptions = Router(**options)
    names, limits = pictures.names, pictures.limits

    @inference.post("/v2/models/{model}/infer")
    @inference.post("/v2/models/{model}/versions/{version}/infer")
    async def infer(request: Request, model: str, version: str = VERSION) -> Response:
        one = find(names, model, version)
        async with pictures.admitted(request, one.model) as expires_at_s:
            body = await read_body(request, limits.max_body_mib * 2**20, "limits.max_body_mib")
            asked = wire.read_request(body, request.headers.get(wire.JSON_LENGTH))
            wire.check_outputs(asked, one.output)
            answer = detect if one.takes_pictures else compute
            output, data = await answer(request, one, asked, expires_at_s)
        return wire.to_response(one.name, VERSION, asked.json.id, output, data)

    async def compute(request: Request, one: Served, asked: wire.Request, expires_at_s: float) -> tuple[Json, bytes]:
        """Return the raw output for a tensor of one or more images."""
        batch = wire.read_planes(asked, one.input)
        pictures.check_count(len(batch))
        slots, tenant = asyncio.Semaphore(_MAX_CONCURRENT_INPUTS), tenant_of(request)

        async def compute_one(planes: NDArray[np.floating]) -> tuple[NDArray[np.float32], str] | ServeAppError:
            async with slots:
                left_s = expires_at_s - time.monotonic()
                try:
                    return await backend.infer(one.model, planes, tenant=tenant, time_left_s=left_s)
                except ServeAppError as exc:
                    return exc

        tensors: list[NDArray[np.float32]] = []
        versions: set[str] = set()
        for computed in await asyncio.gather(*map(compute_one, batch)):
            if isinstance(computed, ServeAppError):
                raise computed
            tensors.append(computed[0])
            versions.add(computed[1])
        if len(versions) > 1:
            raise Unavailable("the model was changed during the request; retry the request")
        return wire.floats(one.output, _stacked(tensors), binary=asked.wants_binary(one.output))

    async def detect(request: Request, one: Served, asked: wire.Request, expires_at_s: float) -> tuple[Json, bytes]:
        """Return the detections in each encoded image, as the JSON of POST /detect."""
        encoded = wire.read_elements(asked, one.input)
        pictures.check_count(len(encoded))
        settings = [(name, str(value)) for name, value in asked.json.parameters.items() if name not in _OWN_PARAMETERS]
        query = parameters.parse(settings)
        if "model" in query.model_fields_set and find(names, query.model, VERSION).model != one.model:
            raise InvalidParameter(f"model: the path names another model, {one.name}; leave this parameter out")
        params = replace(query.to_params(), model=one.model)
        answers = await pictures.detect(request, encoded, params, expires_at_s, annotate=False)
        identity = request_id(request)
        found = [DetectResponse.from_answer(answer, identity).model_dump_json() for answer in answers]
        return wire.texts(one.output, found, binary=asked.wants_binary(one.output))

    def get(*paths: str) -> Callable[[T], T]:
        """Return a decorator that adds a route for each path, which answers GET and HEAD."""

        def decorate(route: Any) -> Any:
            for path in paths:
                descriptions.api_route(path, methods=["GET", "HEAD"])(route)
            return route

        return decorate

    @get("/v2")
    async def describe_server() -> Json:
        return {"name": "sightline", "version": __version__, "extensions": _EXTENSIONS}

    @get("/v2/health/live")
    async def live() -> Json:
        return {"live": True}

    @get("/v2/health/ready")
    async def ready() -> Json:
        await backend.ready()
        return {"ready": True}

    @get("/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready")
    async def model_ready(model: str, version: str = VERSION) -> Json:
        one = find(names, model, version)
        if (await states()).get(one.model) not in _READY_STATES:
            raise Unavailable(f"{one.name}: no detector answers; retry later")
        return {"name": one.name, "ready": True}

    @get("/v2/models/{model}/config", "/v2/models/{model}/versions/{version}/config")
    async def config(request: Request, model: str, version: str = VERSION) -> Json:
        one = find(names, model, version)
        return config_of(one, await describe(request, one), limits.max_images_per_request)

    @get("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    async def describe_model(request: Request, model: str, version: str = VERSION) -> Json:
        one = find(names, model, version)
        return metadata_of(one, await describe(request, one))

    @descriptions.post("/v2/repository/index")
    async def list_models() -> list[Json]:
        known = await states()
        return [
            {
                "name": one.name,
                "version": VERSION,
                "state": "READY" if known.get(one.model) in _READY_STATES else "UNAVAILABLE",
                "reason": "",
            }
            for one in served(names)
        ]

    async def describe(request: Request, one: Served) -> EngineInfo | None:
        """Return the model, or None if its input is encoded images, whose description does not depend on the model."""
        if one.takes_pictures:
            return None
        async with pictures.admitted(request, one.model):
            return (await backend.describe(one.model)).engine

    async def states() -> dict[str, str]:
        """Return the state of each of the application's models."""
        return {status.name: status.state for status in await backend.models()}

    return inference, descriptions


def _error(error: ServeAppError, request_id: str) -> tuple[int, Json]:
    return error.status_code, {"error": error.detail}


def _stacked(tensors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the tensors of several images as one. Those with fewer candidates get zeros, whose confidence is 0."""
    largest = [max(sides) for sides in zip(*(tensor.shape for tensor in tensors), strict=True)]
    batch = np.zeros((len(tensors), *largest), np.float32)
    for place, tensor in zip(batch, tensors, strict=True):
        place[tuple(map(slice, tensor.shape))] = tensor
    return batch

"""The routes of the Open Inference Protocol, version 2 over REST: clients of Triton and KServe, and Ultralytics.

Each model has two names. Under its own name, it takes model inputs as tensors, and answers with its raw output, reduced
to the candidates. With the suffix ``-image``, it takes encoded images, and answers with what ``POST /detect`` answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from serve_app import __version__
from serve_app.api import parameters
from serve_app.api.access.middleware import tenant_of
from serve_app.api.access.permissions import Router
from serve_app.api.access.protocols import Protocol
from serve_app.api.backend import Backend, Metrics
from serve_app.api.bodies import read_body
from serve_app.api.compat import open_inference_models as models
from serve_app.api.compat import open_inference_wire as wire
from serve_app.api.errors import request_id
from serve_app.config import AppArgs
from serve_app.errors import DeadlineExceeded, NotFound, ServeAppError, Unavailable
from serve_app.schemas.detect import DetectResponse
from serve_app.schemas.errors import ErrorResponse
from serve_app.types import EngineInfo, Json, PictureRequest

logger = logging.getLogger(__name__)

_MAX_CONCURRENT_PICTURES = 8  # per request, as in ``POST /detect``
_EXTENSIONS = ["binary_tensor_data", "model_configuration"]
# Parameters of the protocol itself. All others are parameters of ``POST /detect``.
_OWN_PARAMETERS = {
    "binary_data_output",
    "priority",
    "sequence_end",
    "sequence_id",
    "sequence_start",
    "timeout",
}
_READY_STATES = {"ready", "changing", "asleep"}  # the next request loads a model that is asleep

T = TypeVar("T")


def protocol(args: AppArgs) -> Protocol:
    """Return how the clients of this protocol send keys, and how they read errors."""
    return Protocol(
        "open_inference",
        lambda error, _: (error.status_code, {"error": error.detail}),
        frozenset({"basic"}),
        args.compat.open_inference.networks(),
    )


def router(backend: Backend, metrics: Metrics, args: AppArgs) -> Router:
    """Return the routes, of which the one for inference reads its bodies itself."""
    routes = Router(permission="detect", reads_own_body=True, protocol=protocol(args), tags=["open inference"])
    served = models.served_models(args)
    limits = args.limits

    async def describe(one: models.Served) -> EngineInfo | None:
        """Return the model, or None if the client sends encoded images, which any model takes."""
        if one.takes_pictures:
            return None
        try:
            async with asyncio.timeout(limits.deadline_s):
                return (await backend.describe(one.model)).engine
        except TimeoutError as exc:
            raise Unavailable(f"{one.name}: no detector answers; retry later") from exc

    async def states() -> dict[str, str]:
        """Return the state of each of the application's models."""
        return {status.name: status.state for status in await backend.models()}

    def get(*paths: str, summary: str) -> Callable[[T], T]:
        """Return a decorator that adds a route for GET and HEAD to each path."""

        def decorate(route: Any) -> Any:
            for number, path in enumerate(paths):
                routes.get(path, summary=summary, response_model=None, include_in_schema=not number)(route)
                routes.head(path, include_in_schema=False)(route)
            return route

        return decorate

    @get("/v2", summary="Describe the server")
    async def describe_server() -> Json:
        """Return the server's name, version and extensions of the protocol."""
        return {"name": "sightline", "version": __version__, "extensions": _EXTENSIONS}

    @get("/v2/health/live", summary="Check the process for a client of Triton")
    async def live() -> Json:
        """Respond as soon as the process serves HTTP."""
        return {"live": True}

    @get("/v2/health/ready", summary="Check the models for a client of Triton")
    async def ready() -> Json:
        """Respond while the default model is loaded and warm."""
        await backend.ready()
        return {"ready": True}

    @get("/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready", summary="Check one model")
    async def model_ready(model: str, version: str = models.VERSION) -> Json:
        """Respond unless no Detector of the model answers."""
        one = models.find(served, model, version)
        if (await states()).get(one.model) not in _READY_STATES:
            raise Unavailable(f"{one.name}: no detector answers; retry later")
        return {"name": one.name, "ready": True}

    @get("/v2/models/{model}/config", "/v2/models/{model}/versions/{version}/config", summary="Read a model's config")
    async def config(model: str, version: str = models.VERSION) -> Json:
        """Return what Ultralytics and other clients of Triton read before their first inference."""
        one = models.find(served, model, version)
        return models.config_of(one, await describe(one), limits.max_images_per_request)

    @get("/v2/models/{model}", "/v2/models/{model}/versions/{version}", summary="Read a model's metadata")
    async def describe_model(model: str, version: str = models.VERSION) -> Json:
        """Return the model's inputs and outputs."""
        one = models.find(served, model, version)
        return models.metadata_of(one, await describe(one))

    @routes.post("/v2/repository/index", summary="List the models for a client of Triton", response_model=None)
    async def index(request: Request) -> JSONResponse:
        """Return every name that a client may use, with its state."""
        await read_body(request, wire.MAX_JSON_BYTES, "json_body")  # clients send an empty object
        known = await states()
        entries: list[Json] = [
            {
                "name": one.name,
                "version": models.VERSION,
                "state": "READY" if known.get(one.model) in _READY_STATES else "UNAVAILABLE",
                "reason": "",
            }
            for one in served.values()
        ]
        return JSONResponse(entries)

    @routes.post("/v2/models/{model}/infer", summary="Run a model for a client of Triton", response_model=None)
    @routes.post("/v2/models/{model}/versions/{version}/infer", include_in_schema=False, response_model=None)
    async def infer(request: Request, model: str, version: str = models.VERSION) -> Response:
        """Return a model's output for tensors, or the detections in encoded images."""
        expires_at_s = time.monotonic() + limits.deadline_s
        one, tenant = models.find(served, model, version), tenant_of(request)
        backend.admit(tenant, one.model)
        try:
            async with asyncio.timeout(limits.deadline_s):
                body = await read_body(request, limits.max_body_mib * 2**20, "limits.max_body_mib")
                asked = wire.read_request(body, request.headers.get(wire.JSON_LENGTH))
                answer = detect if one.takes_pictures else compute
                output, data = await answer(one, asked, tenant, request_id(request), expires_at_s)
        except TimeoutError as exc:
            raise DeadlineExceeded(
                f"limits.deadline_s: no result within {limits.deadline_s:g} s; retry later or raise the limit"
            ) from exc
        return wire.to_response(one.name, models.VERSION, asked.json.id, output, data)

    async def compute(
        one: models.Served, asked: wire.Request, tenant: str, identity: str, expires_at_s: float
    ) -> tuple[Json, bytes]:
        """Return the output for one tensor of one or more images."""
        given, answered = one.tensors
        wire.check_outputs(asked, answered)
        batch = wire.read_planes(asked, given, limits.max_images_per_request)

        async def compute_one(planes: NDArray[np.floating]) -> NDArray[np.float32]:
            return await backend.infer(one.model, planes, tenant=tenant, time_left_s=expires_at_s - time.monotonic())

        tensors = await _for_each(compute_one, list(batch))
        for tensor in tensors:
            if isinstance(tensor, BaseException):
                raise tensor
        return wire.floats(answered, _stacked(tensors), binary=asked.wants_binary(answered))  # type: ignore[arg-type]

    async def detect(
        one: models.Served, asked: wire.Request, tenant: str, identity: str, expires_at_s: float
    ) -> tuple[Json, bytes]:
        """Return the detections in each encoded image, as JSON. One of several images may have an error instead."""
        given, answered = one.tensors
        wire.check_outputs(asked, answered)
        pictures = wire.read_elements(asked, given, limits.max_images_per_request)
        settings = [(name, str(value)) for name, value in asked.json.parameters.items() if name not in _OWN_PARAMETERS]
        params = replace(parameters.parse(settings).to_params(), model=one.model)

        async def detect_one(picture: bytes) -> str:
            started_at_s = time.monotonic()
            request = PictureRequest(picture, params, expires_at_s - started_at_s, tenant=tenant)
            answer = await backend.detect(request)
            timing = replace(answer.timing, total_s=time.monotonic() - started_at_s)
            return DetectResponse.from_answer(replace(answer, timing=timing), identity).model_dump_json()

        answers = []
        for result in await _for_each(detect_one, pictures):
            if isinstance(result, BaseException):
                if len(pictures) == 1 or not isinstance(result, ServeAppError):
                    raise result
                metrics.refused(result)
                result = ErrorResponse.from_error(result, identity).model_dump_json()
            answers.append(result)
        return wire.texts(answered, answers, binary=asked.wants_binary(answered))

    @routes.api_route("/v2/{other:path}", methods=["GET", "HEAD", "POST"], include_in_schema=False)
    async def refuse(other: str) -> None:
        """Refuse the other requests of Triton's clients, in the form that they read."""
        raise NotFound("no such route; shared memory, tracing, statistics and loading of models are not supported")

    return routes


async def _for_each(work: Callable[[T], Awaitable[Any]], items: Sequence[T]) -> list[Any]:
    """Return the result or the error of ``work`` for each item. A few run at once."""
    slots = asyncio.Semaphore(_MAX_CONCURRENT_PICTURES)

    async def one(item: T) -> Any:
        async with slots:
            return await work(item)

    return await asyncio.gather(*map(one, items), return_exceptions=True)


def _stacked(tensors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the tensors of several images as one. Those with fewer candidates get zeros, whose confidence is 0."""
    largest = [max(sides) for sides in zip(*(tensor.shape for tensor in tensors), strict=True)]
    batch = np.zeros((len(tensors), *largest), np.float32)
    for place, tensor in zip(batch, tensors, strict=True):
        place[tuple(map(slice, tensor.shape))] = tensor
    return batch

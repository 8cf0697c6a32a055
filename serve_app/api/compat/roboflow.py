"""The protocol of Roboflow's inference server: ``inference-sdk``, its benchmark, and supervision."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app import __version__
from serve_app.api.access.permissions import Router
from serve_app.api.access.protocols import KeyPlace, Protocol
from serve_app.api.bodies import check_json, json_body_bytes, read_body
from serve_app.api.compat.pictures import MIN_CONFIDENCE, Pictures
from serve_app.api.errors import request_id
from serve_app.errors import InvalidParameter, Malformed, NotFound, ServeAppError
from serve_app.schemas.errors import ErrorResponse
from serve_app.schemas.models import ModelStatus
from serve_app.types import DEFAULT_MODEL, Answer, DetectParams, Json, Task

_TASKS: dict[str, tuple[Task, ...]] = {  # the tasks of the models that each route serves
    "object_detection": ("detect", "obb", "segment", "pose"),
    "instance_segmentation": ("segment",),
    "keypoints_detection": ("pose",),
    "classification": ("classify",),
}
_TYPES: dict[Task, str] = {
    "detect": "object-detection",
    "obb": "object-detection",
    "segment": "instance-segmentation",
    "pose": "keypoint-detection",
    "classify": "classification",
}
_MAX_IMAGES = 256  # the highest number that the settings allow; a body has room for hundreds of thousands
_IMAGE_FORM = (
    f"send an object with the type base64 or url, and the value, or a list of up to {_MAX_IMAGES} such objects"
)
Body = TypeVar("Body", bound="_ModelRequest")
_UUID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "sightline"))  # all Ingress replicas are one server


class _Image(BaseModel):
    type: Literal["base64", "url"]  # never a pickled array
    value: str


class _ModelRequest(BaseModel):
    model_config = ConfigDict(
        extra="ignore", protected_namespaces=()
    )  # clients also send what only Roboflow's server has

    model_id: str = ""


class _InferRequest(_ModelRequest):
    image: _Image | Annotated[list[_Image], Field(max_length=_MAX_IMAGES, fail_fast=True)]
    confidence: float | Literal["best", "default"] | None = Field(None)
    iou_threshold: float | None = Field(None, ge=0, le=1)
    max_detections: int | None = Field(None, ge=1)
    class_agnostic_nms: bool | None = None
    class_filter: list[str] | None = None
    visualize_predictions: bool = False

    def to_params(self, model: str) -> DetectParams:
        """Return the settings. The defaults are those of Roboflow's server."""
        confidence = self.confidence if isinstance(self.confidence, float) else 0.4
        if not 0 <= confidence <= 1:
            raise InvalidParameter("confidence: send a number from 0 to 1")
        return DetectParams(
            model,
            max(confidence, MIN_CONFIDENCE),
            0.3 if self.iou_threshold is None else self.iou_threshold,
            min(self.max_detections or 300, 3000),
            tuple(self.class_filter or ()),
            agnostic_nms=self.class_agnostic_nms,
        )


def routers(pictures: Pictures) -> tuple[Router, ...]:
    """Return the list of models, the routes that read JSON, and the one that only describes the server."""
    prefixes = "/infer", "/model", "/workflows", "/inference_pipelines"
    places: frozenset[KeyPlace] = frozenset({"query", "json"})
    protocol = Protocol("roboflow", _error, places, prefixes=prefixes, lacks="workflows and stream routes")
    options: dict[str, Any] = {"protocol": protocol, "include_in_schema": False}
    lists = Router(permission="detect", **options)
    routes = Router(permission="detect", reads_own_body=True, **options)
    state = Router(permission=None, **options)

    @lists.api_route("/model/registry", methods=["GET", "HEAD"])
    async def list_models() -> Json:
        statuses = await pictures.statuses()
        named = ((name, statuses.get(pictures.names.find(name))) for name in pictures.names.shown)
        return {"models": [_entry(name, status) for name, status in named if status]}

    @routes.post("/model/add")
    async def add_model(request: Request) -> Json:
        """Answer as if the model had been loaded now. The settings decide which models are served."""
        body = await read_body(request, 2**20, "json_body")
        asked = _parsed(_ModelRequest, check_json(request, body)).model_id
        status = (await pictures.statuses())[pictures.names.find(asked)]
        listed: list[Json] = (await list_models())["models"]
        return {"models": [*(one for one in listed if one["model_id"] != asked), _entry(asked, status)]}

    @routes.post("/model/remove")
    @routes.post("/model/clear")
    async def keep_models(request: Request) -> Json:
        """Return the models. A client cannot remove them, because other clients use them, too."""
        check_json(request, await read_body(request, 2**20, "json_body") or b"{}")
        return await list_models()

    @routes.post("/infer/{task}")
    async def infer(request: Request, task: str) -> Any:
        started_at_s = time.monotonic()
        if task not in _TASKS:
            raise NotFound(f"this server has no task {task[:64]!r}; use one of {', '.join(_TASKS)}")
        # The name of the model is in the body, so the load of the default model decides whether to read the body.
        async with pictures.admitted(request, DEFAULT_MODEL) as expires_at_s:
            body = await read_body(request, json_body_bytes(pictures.limits), "limits.max_body_mib")
            asked = await asyncio.to_thread(_parsed, _InferRequest, check_json(request, body))
            model = pictures.names.find(asked.model_id)
            images = asked.image if isinstance(asked.image, list) else [asked.image]
            pictures.check_count(len(images))
            data: list[bytes] = []
            for one in images:
                read = pictures.fetch(request, one.value) if one.type == "url" else pictures.from_base64(one.value)
                data.append(await read)
                pictures.check_size(data)
            params = asked.to_params(model)
            answers = await pictures.detect(request, data, params, expires_at_s, asked.visualize_predictions)
            status = (await pictures.statuses())[model]
        if status.task and status.task not in _TASKS[task]:
            raise InvalidParameter(f"model_id: the model's task is {status.task}; use /infer/{_route_of(status.task)}")
        took_s = time.monotonic() - started_at_s
        results = [_result(answer, task, took_s, request_id(request)) for answer in answers]
        return results if isinstance(asked.image, list) else results[0]

    @state.api_route("/info", methods=["GET", "HEAD"])
    async def describe() -> Json:
        return {"name": "Sightline", "version": __version__, "uuid": _UUID}

    return lists, routes, state


def _error(error: ServeAppError, request_id: str) -> tuple[int, Json]:
    return error.status_code, {"message": error.detail, **ErrorResponse.from_error(error, request_id).model_dump()}


def _parsed(kind: type[Body], body: bytes) -> Body:
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        error = exc.errors(include_input=False)[0]
        if error["type"] == "json_invalid":
            raise Malformed("the body is not valid JSON") from None
        name = str(error["loc"][0]) if error["loc"] else "the body"
        raise InvalidParameter(f"{name}: {_IMAGE_FORM if name == 'image' else error['msg']}") from None


def _entry(name: str, status: ModelStatus) -> Json:
    size = {"input_height": status.input_height_px, "input_width": status.input_width_px}
    return {"model_id": name, "task_type": _TYPES[status.task or "detect"], "batch_size": 1, **size}


def _route_of(task: Task) -> str:
    return next(name for name, tasks in reversed(_TASKS.items()) if task in tasks)


def _result(answer: Answer, task: str, took_s: float, identity: str) -> Json:
    """Return the answer in the form of Roboflow's server. Boxes are given by their centre, in pixels of the image."""
    found = answer.detections
    result: Json = {"inference_id": identity, "time": round(took_s, 4)}
    result["image"] = {"width": answer.width_px, "height": answer.height_px}
    if answer.annotated is not None:
        result["visualization"] = base64.b64encode(answer.annotated).decode()
    if (ranking := found.classes) is not None:
        classes = zip(ranking.labels or (), ranking.class_id.tolist(), ranking.confidence.tolist(), strict=True)
        ranked = [{"class": name, "class_id": number, "confidence": round(value, 4)} for name, number, value in classes]
        best = ranked[0] if ranked else {"class": "", "confidence": 0.0}
        return result | {"predictions": ranked, "top": best["class"], "confidence": best["confidence"]}
    predictions: list[Json] = []
    for label, ((x1, y1, x2, y2), confidence, class_id) in zip(found.labels or (), found, strict=True):
        centre = {"x": round((x1 + x2) / 2, 2), "y": round((y1 + y2) / 2, 2)}
        size = {"width": round(x2 - x1, 2), "height": round(y2 - y1, 2)}
        kind = {"confidence": round(confidence, 4), "class": label, "class_id": class_id}
        predictions.append({**centre, **size, **kind, "detection_id": str(uuid.uuid4())})
    if task == "instance_segmentation":
        for one, rings in zip(predictions, found.outlines or (), strict=False):
            # The form has room for one outline, so the largest is sent.
            largest = rings[0] if isinstance(rings, list) and rings else []
            one["points"] = [{"x": x, "y": y} for x, y in largest]
    if task == "keypoints_detection" and found.keypoints is not None:
        for one, points in zip(predictions, found.keypoints.tolist(), strict=True):
            names = answer.keypoint_names or tuple(map(str, range(len(points))))
            one["keypoints"] = [
                {"x": round(x, 2), "y": round(y, 2), "confidence": round(value, 4), "class_id": number, "class": name}
                for number, (name, (x, y, value)) in enumerate(zip(names, points, strict=True))
            ]
    return result | {"predictions": predictions}

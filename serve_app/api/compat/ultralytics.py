"""The protocol of the Ultralytics Platform: its Python SDK, ``ul cloud predict``, and dedicated endpoints."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from fastapi import Request

from serve_app.api.access.permissions import Router
from serve_app.api.access.protocols import Protocol
from serve_app.api.bodies import json_body_bytes, read_body
from serve_app.api.compat.pictures import MIN_CONFIDENCE, Form, Pictures, checked_count, checked_number
from serve_app.errors import Malformed, ServeAppError
from serve_app.schemas.errors import ErrorResponse
from serve_app.types import DEFAULT_MODEL, Answer, DetectParams, Json

_URLENCODED = "application/x-www-form-urlencoded"
_MAX_FIELDS = 32
_MAX_FIELD_CHARS = 8192  # longer values are images in base64
_MAX_STRIDE = 1000
_TRUE = {"true", "1", "yes", "on"}


def routers(pictures: Pictures) -> tuple[Router, ...]:
    """Return the routes that detect."""
    lacks = "deployments, training and data sets"
    protocol = Protocol("ultralytics", _error, prefixes=("/api", "/predict"), lacks=lacks)
    routes = Router(permission="detect", reads_own_body=True, protocol=protocol, include_in_schema=False)

    @routes.post("/predict")
    async def predict_with_default(request: Request) -> Json:
        return await predict(request, DEFAULT_MODEL)

    # The SDK needs an owner and a project. Here they have no meaning.
    @routes.post("/api/models/{owner}/{project}/{model}/predict")
    async def predict_with_model(request: Request, model: str) -> Json:
        return await predict(request, pictures.names.find(model))

    async def predict(request: Request, model: str) -> Json:
        started_at_s = time.monotonic()
        async with pictures.admitted(request, model) as expires_at_s:
            form = await read(request)
            if len(form.pictures) + len(form.videos) != 1:
                raise Malformed("the form needs one image or video, as a part named 'file'")
            params = _params(model, form.fields)
            stride = checked_count("vid_stride", form.fields.get("vid_stride") or "1", 1, _MAX_STRIDE)
            if form.videos:
                answers = await pictures.detect_video(request, form.videos[0], params, expires_at_s, stride)
            else:
                answers = await pictures.detect(request, form.pictures, params, expires_at_s, annotate=False)
            status = (await pictures.statuses())[model]
        normalize = form.fields.get("normalize", "").lower() in _TRUE
        decimals = checked_count("decimals", form.fields.get("decimals") or "5", 0, 10)
        return {
            "images": [_image(answer, normalize, decimals) for answer in answers],
            "metadata": {
                "imageCount": len(answers),
                "classNames": status.labels or [],
                "task": status.task,
                "functionTimeCall": round(time.monotonic() - started_at_s, 4),
                "model": answers[0].model if answers else model,
                "version": {},
            },
        }

    async def read(request: Request) -> Form:
        """Return the image and the fields. Without a file, the form is urlencoded, and its ``source`` is the image."""
        if not request.headers.get("content-type", "").startswith(_URLENCODED):
            return await pictures.form(request, "file")
        body = await read_body(request, json_body_bytes(pictures.limits), "limits.max_body_mib")
        try:
            fields = await asyncio.to_thread(_fields, body)
        except ValueError as exc:
            raise Malformed("the form is not valid; let the HTTP client build it") from exc
        source = fields.pop("source", "")
        is_url = source.startswith(("http://", "https://"))
        picture = await (pictures.fetch(request, source) if is_url else pictures.from_base64(source))
        return Form([picture] if picture else [], fields=fields)

    return (routes,)


def _error(error: ServeAppError, request_id: str) -> tuple[int, Json]:
    return error.status_code, {"error": error.detail, **ErrorResponse.from_error(error, request_id).model_dump()}


def _fields(body: bytes) -> dict[str, str]:
    """Return the fields of an urlencoded form. Raise ValueError if it is not valid.

    ``parse_qsl`` makes an object of each escape, and an image may have millions.
    """
    parts = body.decode("ascii").split("&")
    if len(parts) > _MAX_FIELDS:
        raise ValueError("too many fields")
    pairs = (part.partition("=") for part in parts)
    return {unquote_plus(name[:_MAX_FIELD_CHARS]): _unescaped(value) for name, _, value in pairs}


def _unescaped(value: str) -> str:
    """Undo the escapes of a value. In a long one, which is an image, undo only those of base64 and of data URLs."""
    if len(value) <= _MAX_FIELD_CHARS:
        return unquote_plus(value)
    value = value.replace("+", " ")
    for character in "+/=:;,":
        escape = quote_plus(character)
        value = value.replace(escape, character).replace(escape.lower(), character)
    return value


def _params(model: str, fields: dict[str, str]) -> DetectParams:
    """Return the settings of a request. ``imgsz`` has no effect, because the server chooses the size."""
    confidence = checked_number("conf", fields.get("conf") or "0.25", 0, 1)
    return DetectParams(model, max(confidence, MIN_CONFIDENCE), checked_number("iou", fields.get("iou") or "0.7", 0, 1))


def _image(answer: Answer, normalize: bool, decimals: int) -> Json:
    timing = answer.timing
    seconds = {"preprocess": timing.decode_s, "inference": timing.inference_s, "postprocess": timing.postprocess_s}
    return {
        "shape": [answer.height_px, answer.width_px],
        "speed": {stage: round(value_s * 1e3, 2) for stage, value_s in seconds.items()},
        "results": _summary(answer, normalize, decimals),
    }


def _summary(answer: Answer, normalize: bool, decimals: int) -> list[Json]:
    """Return the results in the form of Ultralytics' ``Results.summary``."""
    found = answer.detections
    width, height = (answer.width_px, answer.height_px) if normalize else (1, 1)

    def xy(points: Any) -> tuple[list[float], list[float]]:
        """Return the rounded x and y of points, which are rows that begin with x and y."""
        return [round(row[0] / width, decimals) for row in points], [round(row[1] / height, decimals) for row in points]

    if (ranking := found.classes) is not None:
        classes = zip(ranking.labels or (), ranking.class_id.tolist(), ranking.confidence.tolist(), strict=True)
        return [
            {"name": name, "class": number, "confidence": round(value, decimals)} for name, number, value in classes
        ]
    corners = found.xyxy.reshape(-1, 2, 2) if found.corners is None else found.corners
    results: list[Json] = []
    for label, (_, confidence, class_id), points in zip(found.labels or (), found, corners.tolist(), strict=True):
        edges = enumerate(zip(*xy(points), strict=True), 1)
        box = {f"{axis}{number}": value for number, pair in edges for axis, value in zip("xy", pair, strict=True)}
        results.append({"name": label, "class": class_id, "confidence": round(confidence, decimals), "box": box})
    for one, rings in zip(results, found.outlines or (), strict=False):
        x, y = xy([point for ring in rings for point in ring])  # type: ignore[union-attr]  # outlines are polygons here
        one["segments"] = {"x": x, "y": y}
    for one, keypoints in zip(results, () if found.keypoints is None else found.keypoints.tolist(), strict=False):
        x, y = xy(keypoints)
        one["keypoints"] = {"x": x, "y": y, "visible": [round(row[2], decimals) for row in keypoints]}
    return results

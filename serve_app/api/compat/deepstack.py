"""The protocol of DeepStack and CodeProject.AI Server: Frigate's detector, Blue Iris, Viseron and others."""

from __future__ import annotations

import time
from typing import Any

from fastapi import Request

from serve_app import __version__
from serve_app.api.access.permissions import Router
from serve_app.api.access.protocols import Protocol
from serve_app.api.compat.pictures import MIN_CONFIDENCE, Pictures, checked_count, checked_number
from serve_app.compat_args import DeepStackArgs
from serve_app.errors import InvalidParameter, Malformed, ServeAppError
from serve_app.types import DEFAULT_MODEL, Answer, DetectParams, Json

_USUAL_CONFIDENCE = 0.4  # of CodeProject.AI, and what Frigate's detector counts as a detection
# Frigate's detector has room for 20 objects. Its requests have no ``min_confidence``, unlike those of other clients.
_MAX_FOR_FRIGATE = 20
_MAX_DETECTIONS = 3000
_KEPT_STATUSES = {401, 403, 404, 429, 503, 504}  # DeepStack has 400 for every other fault of a request


def routers(pictures: Pictures, args: DeepStackArgs) -> tuple[Router, ...]:
    """Return the list of models, the routes that detect, and those that only say that the server runs."""
    lacks = "faces, scenes and licence plates"
    protocol = Protocol("deepstack", _error, frozenset({"form"}), args.networks(), ("/v1",), lacks)
    options: dict[str, Any] = {"protocol": protocol, "include_in_schema": False}
    routes = Router(permission="detect", reads_own_body=True, **options)
    lists = Router(permission="detect", **options)
    state = Router(permission=None, **options)

    @routes.post("/v1/vision/detection")
    async def detect_with_default(request: Request) -> Json:
        return await detect(request, DEFAULT_MODEL, "detect")

    @lists.api_route("/v1/vision/custom/list", methods=["GET", "HEAD", "POST"])
    async def list_models() -> Json:
        return {"success": True, "models": list(pictures.names.shown)}

    @routes.post("/v1/vision/custom/{model}")
    async def detect_with_model(request: Request, model: str) -> Json:
        return await detect(request, pictures.names.find(model), "custom")

    async def detect(request: Request, model: str, command: str) -> Json:
        started_at_s = time.monotonic()
        async with pictures.admitted(request, model) as expires_at_s:
            form = await pictures.form(request, "image")
            if len(form.pictures) != 1:
                raise Malformed("the form needs one image, as a part named 'image'")
            params = _params(model, form.fields, dict(request.query_params))
            [answer] = await pictures.detect(request, form.pictures, params, expires_at_s, annotate=False)
        if answer.detections.classes is not None:
            raise InvalidParameter(
                f"the model {answer.model} classifies whole images and finds no objects; name a model that detects, as "
                "in /v1/vision/custom/MODEL, or use POST /detect"
            )
        return _answer(answer, command, time.monotonic() - started_at_s)

    @state.api_route("/v1/status/ping", methods=["GET", "HEAD"])
    @state.api_route("/v1/server/status/ping", methods=["GET", "HEAD"])
    async def ping() -> Json:
        return {"success": True}

    @state.api_route("/v1/status/updateavailable", methods=["GET", "HEAD"])
    async def find_update() -> Json:
        version = _version()
        return {"success": True, "message": "", "updateAvailable": False, "current": version, "latest": version}

    return lists, routes, state


def _error(error: ServeAppError, request_id: str) -> tuple[int, Json]:
    is_kept = error.status_code in _KEPT_STATUSES or error.status_code == 500
    status = error.status_code if is_kept else 400
    return status, {"success": False, "error": error.detail, "code": status, "requestId": request_id}


def _params(model: str, fields: dict[str, str], query: dict[str, str]) -> DetectParams:
    """Return the settings of a request. Frigate keeps the query of its URL, so the query may have settings, too."""
    confidence = fields.get("min_confidence") or query.get("min_confidence")
    wanted = query.get("max_detections")
    usual = None if confidence else _MAX_FOR_FRIGATE
    classes = query.get("classes", "")
    return DetectParams(
        model,
        max(checked_number("min_confidence", confidence, 0, 1), MIN_CONFIDENCE) if confidence else _USUAL_CONFIDENCE,
        max_detections=checked_count("max_detections", wanted, 1, _MAX_DETECTIONS) if wanted else usual,
        classes=(classes,) if classes else (),
        classes_may_be_lists=True,
    )


def _answer(answer: Answer, command: str, took_s: float) -> Json:
    """Return the answer with the boxes as integers, in pixels of the image, the most confident first."""
    found, timing = answer.detections, answer.timing
    right, bottom = answer.width_px, answer.height_px
    predictions: list[Json] = []
    for label, ((x1, y1, x2, y2), confidence, _) in zip(found.labels or (), found, strict=True):
        box = {"x_min": max(round(x1), 0), "y_min": max(round(y1), 0)}
        box |= {"x_max": min(round(x2), right), "y_max": min(round(y2), bottom)}
        predictions.append({"label": label, "confidence": round(confidence, 4), **box})
    predictions.sort(key=lambda one: -one["confidence"])
    labels = ", ".join(dict.fromkeys(one["label"] for one in predictions))
    return {
        "success": True,
        "predictions": predictions,
        "count": len(predictions),
        "message": f"Found {labels}" if labels else "No objects found",
        "command": command,
        "moduleId": "Sightline",
        "moduleName": "Sightline",
        "inferenceMs": round(timing.inference_s * 1e3),
        "processMs": round(timing.total_s * 1e3),
        "analysisRoundTripMs": round(took_s * 1e3),
        "code": 200,
        "duration": round(took_s, 4),
    }


def _version() -> Json:
    major, minor, patch = (int(part) for part in __version__.split("."))
    number = {"major": major, "minor": minor, "patch": patch}
    return number | {"preRelease": None, "securityUpdate": False, "build": 0, "file": "", "releaseNotes": ""}

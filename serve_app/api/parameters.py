"""The parameters of ``POST /detect``, which clients send in the query or as form fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from serve_app.errors import InvalidParameter
from serve_app.schemas.detect import ONE_VALUE, DetectQuery
from serve_app.types import Json

# We accept these names, because Ultralytics and other servers use them for the same parameters.
ALIASES = {
    "conf": "confidence",
    "conf_thres": "confidence",
    "conf_threshold": "confidence",
    "confidence_threshold": "confidence",
    "iou_thres": "iou",
    "iou_threshold": "iou",
    "max_det": "max_detections",
    "class": "classes",
    "agnostic": "agnostic_nms",
    "classes[]": "classes",  # axios, jQuery and PHP use this name for a list
}
# Parameters that other servers have but this server lacks, each with advice on what to do instead.
_SIZE = "the server scales images to the model's input size; send the image as it is"
_DRAWN = "send the header Accept: image/jpeg to get the image with its boxes drawn"
_KEY = "send the API key in the header Authorization: Bearer KEY"
_BY_MODEL = "the model decides this, and a request cannot change it"
_INSTEAD = {
    **dict.fromkeys(("imgsz", "img_size", "imgsize", "image_size", "size", "input_size"), _SIZE),
    **dict.fromkeys(("annotate", "annotated", "draw", "plot", "render", "visualize", "format", "output"), _DRAWN),
    **dict.fromkeys(("api_key", "apikey", "key", "token", "access_token"), _KEY),
    **dict.fromkeys(("half", "device", "augment", "task", "precision"), _BY_MODEL),
    **dict.fromkeys(("threshold", "thresh", "score", "score_threshold", "min_confidence"), "use confidence"),
    **dict.fromkeys(("nms", "overlap", "nms_threshold"), "use iou"),
    **dict.fromkeys(("limit", "top_k", "topk"), "use max_detections"),
    **dict.fromkeys(("labels", "class_ids", "filter"), "use classes"),
    **dict.fromkeys(("model_id", "weights", "version"), "use model"),
    **dict.fromkeys(
        ("url", "image_url", "image", "img", "file", "data"), "send the image as the body, not as a parameter"
    ),
}
_NAMES = tuple(DetectQuery.model_fields)
_MAX_NAME_CHARS = 64  # an error quotes at most this many characters of an unknown name


def parse(items: Sequence[tuple[str, str]]) -> DetectQuery:
    """Parse names and values into parameters. Raise InvalidParameter if a parameter is unknown, repeated or invalid."""
    ours = [(ALIASES.get(name, name), value) for name, value in items]
    counts = Counter(name for name, _ in ours)
    if repeated := [name for name in ONE_VALUE if counts[name] > 1]:
        raise InvalidParameter(f"{', '.join(repeated)}: given more than once; send each parameter once")
    values: dict[str, Any] = {name: value for name, value in ours if name != "classes"}
    if counts["classes"]:
        values["classes"] = [value for name, value in ours if name == "classes"]
    if unknown := [name for name in values if name not in _NAMES]:
        raise InvalidParameter(unknown_parameter(unknown[0]))
    try:
        return DetectQuery.model_validate(values)
    except ValidationError as exc:
        problems = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
        raise InvalidParameter("; ".join(problems)) from None


def is_parameter(name: str) -> bool:
    """Return whether a form field with this name is a parameter."""
    return name in _NAMES or name in ALIASES


def unknown_parameter(name: str) -> str:
    """Return the error text for an unknown parameter, with advice on what to use instead."""
    shown, lower = name[:_MAX_NAME_CHARS], name[:_MAX_NAME_CHARS].lower()
    if lower in _INSTEAD:
        return f"{shown}: there is no such parameter; {_INSTEAD[lower]}"
    meant = get_close_matches(ALIASES.get(lower, lower), _NAMES, 1)
    hint = f"did you mean {meant[0]}?" if meant else f"use {', '.join(_NAMES)}"
    return f"{shown!r}: there is no such parameter; {hint}"


def openapi_parameters() -> list[Json]:
    """Return the OpenAPI description of the query parameters. In a query, a value is no object."""
    properties = DetectQuery.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": _without_objects(schema)}
        | ({"description": schema["description"]} if "description" in schema else {})
        for name, schema in properties.items()
    ]


def _without_objects(schema: Json) -> Json:
    if "anyOf" not in schema:
        return schema
    return schema | {"anyOf": [_without_objects(one) for one in schema["anyOf"] if one.get("type") != "object"]}

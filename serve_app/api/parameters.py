"""Read the parameters of ``POST /detect`` from its query, and from the fields of a form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from serve_app.errors import InvalidParameter
from serve_app.schemas.detect import ONE_VALUE, DetectQuery
from serve_app.types import Json

# What other servers and Ultralytics call the same: these mean ours.
SAME = {
    "conf": "confidence",
    "conf_thres": "confidence",
    "conf_threshold": "confidence",
    "confidence_threshold": "confidence",
    "iou_thres": "iou",
    "iou_threshold": "iou",
    "max_det": "max_detections",
    "class": "classes",
    "classes[]": "classes",  # as axios, jQuery and PHP send a list
}
# What others have and we do not, and what to do instead.
_SIZE = "the model has one input size, and pictures are scaled to it: send the picture as it is"
_DRAWN = "ask for the picture with its boxes drawn by the header Accept: image/jpeg"
_KEY = "send the API key as the header Authorization: Bearer KEY"
_BY_MODEL = "this is the model's, and no request changes it"
_INSTEAD = {
    **dict.fromkeys(("imgsz", "img_size", "imgsize", "image_size", "size", "input_size"), _SIZE),
    **dict.fromkeys(("annotate", "annotated", "draw", "plot", "render", "visualize", "format", "output"), _DRAWN),
    **dict.fromkeys(("api_key", "apikey", "key", "token", "access_token"), _KEY),
    **dict.fromkeys(("agnostic_nms", "half", "device", "augment", "task", "precision"), _BY_MODEL),
    **dict.fromkeys(("threshold", "thresh", "score", "score_threshold", "min_confidence"), "use confidence"),
    **dict.fromkeys(("nms", "overlap", "nms_threshold"), "use iou"),
    **dict.fromkeys(("limit", "top_k", "topk"), "use max_detections"),
    **dict.fromkeys(("labels", "class_ids", "filter"), "use classes"),
    **dict.fromkeys(("model_id", "weights", "version"), "use model"),
    **dict.fromkeys(("url", "image_url", "image", "img", "file", "data"), "a picture is no parameter: it is the body"),
}
_NAMES = tuple(DetectQuery.model_fields)
_MAX_NAME_CHARS = 64  # of a name that is shown


def parse(items: Sequence[tuple[str, str]]) -> DetectQuery:
    """Return the parameters of these names and values. Raises InvalidParameter, which names each that is wrong."""
    ours = [(SAME.get(name, name), value) for name, value in items]
    counts = Counter(name for name, _ in ours)
    if repeated := [name for name in ONE_VALUE if counts[name] > 1]:
        raise InvalidParameter(f"{', '.join(repeated)}: given more than once")
    values: dict[str, Any] = {name: value for name, value in ours if name != "classes"}
    if counts["classes"]:
        values["classes"] = [value for name, value in ours if name == "classes"]
    if unknown := [name for name in values if name not in _NAMES]:
        raise InvalidParameter(no_such(unknown[0]))
    try:
        return DetectQuery.model_validate(values)
    except ValidationError as exc:
        problems = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
        raise InvalidParameter("; ".join(problems)) from None


def is_parameter(name: str) -> bool:
    """Return whether a form's field of this name is a parameter of ours."""
    return name in _NAMES or name in SAME


def no_such(name: str) -> str:
    """Return the sentence about a parameter that there is not: what to do instead, where that is known."""
    shown, lower = name[:_MAX_NAME_CHARS], name[:_MAX_NAME_CHARS].lower()
    if lower in _INSTEAD:
        return f"{shown}: there is no such parameter; {_INSTEAD[lower]}"
    meant = get_close_matches(SAME.get(lower, lower), _NAMES, 1)
    hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(_NAMES)}"
    return f"{shown!r}: there is no such parameter; {hint}"


def described() -> list[Json]:
    """Return OpenAPI's description of the query."""
    properties = DetectQuery.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        | ({"description": schema["description"]} if "description" in schema else {})
        for name, schema in properties.items()
    ]

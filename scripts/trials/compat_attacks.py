"""Random hostile requests to the routes of other servers' protocols."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from scripts.trials.wire import request

_FORMS = ("/v1/vision/detection", "/v1/vision/custom/codes", "/predict", "/api/models/a/b/codes/predict")
_JSONS = ("/infer/object_detection", "/infer/classification", "/model/add", "/model/remove", "/model/clear")
_GETS = (
    *("/model/registry", "/info", "/v1/status/updateavailable", "/v1/vision/custom/list", "/v1/server/status/ping"),
    *("/v2", "/v2/health/ready", "/v2/models/codes", "/v2/models/nope/versions/9/ready", "/v2/models/%00/config"),
)
_ODD = ("", "0", "-1", "nan", "inf", "1e999", "\0", "9" * 400, "a" * 9000, "{}", "../..", "\U0001f600")
_TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "")
_FIELDS = ("min_confidence", "api_key", "conf", "iou", "decimals", "normalize", "vid_stride", "imgsz", "source", "x")


def compat_request(rng: random.Random, pictures: Sequence[bytes], damage: Callable[[bytes], bytes]) -> bytes:
    """Return one request. ``damage`` returns a damaged copy of one of the sound ``pictures``."""
    kind = rng.choice((_form, _form, _json, _json, _get, _any))
    picture = rng.choice(pictures)
    return kind(rng, damage(picture) if rng.random() < 0.7 else picture)


def _form(rng: random.Random, picture: bytes) -> bytes:
    """Return a form with odd fields, or an image that calls itself a video."""
    part = b'--x\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n\r\n%b\r\n'
    name = rng.choice((b"image", b"image", b"file", b"file", b"x"))
    count = rng.choice((1, 1, 0, 3))
    files = [part % (name, rng.choice((b"a", b"a.jpg", b"a.mp4", b"a.ts")), picture) for _ in range(count)]
    field = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    fields = [field.format(rng.choice(_FIELDS), rng.choice(_ODD)).encode() for _ in range(rng.randrange(4))]
    end = rng.choice((b"--x--\r\n", b"--x--\r\n", b""))
    headers = [("Content-Type", "multipart/form-data; boundary=x")]
    query = rng.choice(("", "", "?classes=nope", "?max_detections=0", f"?min_confidence={9**99}"))
    return request("POST", rng.choice(_FORMS) + query, headers, b"".join([*files, *fields, end]))


def _json(rng: random.Random, picture: bytes) -> bytes:
    """Return JSON with odd values, sometimes nested deeply, and sometimes cut off."""
    encoded = base64.b64encode(picture).decode()
    images: list[Any] = [
        {"type": "base64", "value": encoded},
        [{"type": "base64", "value": encoded}] * rng.choice((2, 40)),
        {"type": "base64", "value": encoded[: len(encoded) // 2] + "*"},
        {"type": "numpy", "value": "gASV"},
        {"type": "url", "value": "http://127.0.0.1:1/"},
        rng.choice(_ODD),
    ]
    odd: Any = rng.choice((*_ODD, 1e308, -1, None, [], {}, True, ["dog"]))
    model = rng.choice(("codes", "codes", "nope", ""))
    body = {"model_id": model, "image": rng.choice(images), "api_key": rng.choice(_ODD)}
    body[rng.choice(("confidence", "iou_threshold", "max_detections", "class_filter", "model_id", "image"))] = odd
    text = json.dumps(body).encode()
    shape = rng.random()
    if shape < 0.1:
        text = b"[" * 100_000
    elif shape < 0.2:
        text = text[: rng.randrange(len(text))]
    return request("POST", rng.choice(_JSONS), [("Content-Type", rng.choice(_TYPES))], text)


def _get(rng: random.Random, _: bytes) -> bytes:
    query = rng.choice(("", "?api_key=None", "?api_key=%ff%00", "?" + "api_key=a&" * 3000, "?api_key[]=1"))
    return request(rng.choice(("GET", "GET", "HEAD", "OPTIONS")), rng.choice(_GETS) + query)


def _any(rng: random.Random, picture: bytes) -> bytes:
    """Return a body that does not fit its route."""
    headers = [("Content-Type", rng.choice(_TYPES))]
    body = rng.choice((picture, b"", b"source=" + b"A" * 1000, b"source=%ff", b"{", b"--x--"))
    return request("POST", rng.choice((*_FORMS, *_JSONS, *_GETS)), headers, body)

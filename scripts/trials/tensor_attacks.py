"""Random hostile requests of the Open Inference Protocol: false lengths and shapes, wrong numbers, compressed zeros."""

from __future__ import annotations

import gzip
import json
import random
import struct

import httpx
import numpy as np

_TIMEOUT_S = 60.0
_SHAPES: tuple[object, ...] = (
    [1, 3, 640, 640],
    [1, 3, 64, 64],
    [2, 3, 32, 32],
    [0, 3, 640, 640],
    [1, 3, -640, -640],
    [2**62, 3, 2**62, 4],
    [1, 3, 10**30, 1],
    [1] * 10_000,
    [],
    "x",
    [1.5, 3, 64, 64],
    None,
)
_KINDS = ("FP32", "FP32", "FP32", "FP16", "FP64", "UINT8", "BYTES", "BF16", "", 7, None)
_PATHS = (
    *("default",) * 8,
    *("default-image",) * 3,
    "codes",
    "nothing",
    "a" * 5000,
    "%00",
    "..%2f..",
    "default-image-image",
)
_VALUES = (0.0, 1.0, 0.5, -1.0, 2.0, float("nan"), float("inf"), 3e38, 1e-40)


def send_tensors(url: str) -> None:
    """Send valid tensors to all Ingresses. For its first tensor, an Ingress opens a frame pool, which it keeps."""
    model = f"{url}/v2/models/default"
    shape = [1, *httpx.get(model, timeout=_TIMEOUT_S, trust_env=False).json()["inputs"][0]["shape"][1:]]
    data = np.zeros(shape, np.float16).tobytes()
    given = {"name": "images", "shape": shape, "datatype": "FP16", "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [given]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    for _ in range(8):  # on new connections, so that each of a few Ingresses probably gets one
        answer = httpx.post(f"{model}/infer", content=text + data, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        answer.raise_for_status()


def tensor_attack(rng: random.Random) -> tuple[bytes, list[tuple[str, str]], str]:
    """Return the body, the headers and the path of a request."""
    data = _data(rng)
    size = rng.choice((len(data), len(data), len(data), len(data) + 1, -1, 2**70, 0, None, "x", True))
    given = {
        "name": rng.choice(("images", "images", "image", "x", None)),
        "shape": rng.choice(_SHAPES),
        "datatype": rng.choice(_KINDS),
        "parameters": {} if size is None else {"binary_data_size": size},
    }
    if rng.random() < 0.1:
        given["data"] = rng.choice(([0.5] * 1000, [[[[]]]] * 50, "x", {"a": 1}, [10**400], [None], [float("nan")] * 3))
    asked = {"inputs": [given] * rng.choice((1, 1, 1, 1, 0, 2, 1000)), "parameters": {"binary_data_output": True}}
    text = rng.choice((json.dumps(asked).encode(),) * 8 + (b"[" * 100_000, b"{", b'{"inputs":' + b"[0," * 300_000))
    length = rng.choice((str(len(text)),) * 6 + ("-1", "0", "9" * 40, str(len(text) + len(data) + 1), "x", "1e9"))
    headers = [("Inference-Header-Content-Length", length)] * rng.choice((1, 1, 1, 1, 0, 2))
    body = text + data
    if rng.random() < 0.1:
        headers.append(("Content-Encoding", "gzip"))
        body = gzip.compress(rng.choice((body, bytes(64 << 20))), 1)
    action = rng.choice(("infer", "infer", "infer", "infer", "versions/1/infer", "versions/-1/infer"))
    return body, headers, f"/v2/models/{rng.choice(_PATHS)}/{action}"


def _data(rng: random.Random) -> bytes:
    """Return the data of a tensor, which seldom fit the shape that the request names."""
    match rng.randrange(5):
        case 0:
            return np.full((1, 3, 640, 640), rng.choice(_VALUES), np.float32).tobytes()
        case 1:
            with np.errstate(over="ignore"):  # a number that is too large for float16 becomes infinity
                return np.full((1, 3, 64, 64), rng.choice(_VALUES), np.float16).tobytes()
        case 2:
            return rng.randbytes(rng.choice((0, 1, 4, 24_576, 100_000)))
        case 3:
            lengths = rng.choices((0, 1, 5, 2**31, 2**32 - 1), k=rng.randrange(4))
            return b"".join(struct.pack("<I", length) + b"abcde" for length in lengths)
        case _:
            return b""

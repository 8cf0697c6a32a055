"""Requests of the Open Inference Protocol, as clients of Triton and KServe send them."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

INFER, INFER_IMAGE = "/v2/models/default/infer", "/v2/models/default-image/infer"
LENGTH = "Inference-Header-Content-Length"
IMAGE = np.full((1, 3, 32, 64), 1, np.float32)


def binary(text: str, *blobs: bytes) -> dict[str, Any]:
    """Return the arguments of a request with binary data."""
    return {"content": b"".join([text.encode(), *blobs]), "headers": {LENGTH: str(len(text.encode()))}}


def tensor(planes: NDArray[np.floating] = IMAGE, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a request with one tensor, as tritonclient sends it for Ultralytics."""
    kind = {"float32": "FP32", "float16": "FP16", "float64": "FP64", "uint8": "UINT8"}[planes.dtype.name]
    data = planes.tobytes()
    given: dict[str, Any] = {
        "name": "images",
        "shape": list(planes.shape),
        "datatype": kind,
        "parameters": {"binary_data_size": len(data)},
    }
    wanted = [{"name": "output0", "parameters": {"binary_data": True}}]
    return binary(json.dumps({"inputs": [given | changes], "outputs": wanted}, separators=(",", ":")), data)


def pictures(*encoded: bytes, **parameters: Any) -> dict[str, Any]:
    """Return the arguments of a request with encoded images."""
    data = b"".join(struct.pack("<I", len(one)) + one for one in encoded)
    size = {"binary_data_size": len(data)}
    given = {"name": "image", "shape": [len(encoded)], "datatype": "BYTES", "parameters": size}
    return binary(json.dumps({"inputs": [given], "parameters": parameters}), data)


def error_of(response: httpx.Response) -> str:
    assert response.json().keys() == {"error"}
    error: str = response.json()["error"]
    return error

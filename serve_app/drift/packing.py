"""The form in which counts are stored: a line of JSON, and then the compressed arrays that it describes."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.types import Json

_LEVEL = 1  # most counts are zero, so that a higher level saves little


def pack(fields: Json, *arrays: NDArray[Any]) -> bytes:
    """Return the fields and the arrays as bytes. ``unpack`` does the inverse."""
    layout = [[array.dtype.str, list(array.shape)] for array in arrays]
    head = json.dumps({"fields": fields, "arrays": layout}).encode()
    return head + b"\n" + zlib.compress(b"".join(array.tobytes() for array in arrays), _LEVEL)


def unpack(data: bytes) -> tuple[Json, list[NDArray[Any]]]:
    """Return the fields and the arrays. The arrays can be written. Raise ValueError if the data is damaged."""
    head, _, body = data.partition(b"\n")
    described = json.loads(head)
    try:
        content = zlib.decompress(body)
    except zlib.error as exc:
        raise ValueError(f"the stored counts are damaged: {exc}") from exc
    arrays, start = [], 0
    for kind, shape in described["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(content, np.dtype(kind), count, start)
        arrays.append(array.reshape(shape).copy())
        start += array.nbytes
    return described["fields"], arrays

"""Read requests and write answers of the Open Inference Protocol, whose tensors may follow the JSON as binary data."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from starlette.responses import Response

from serve_app.errors import InvalidParameter, Malformed, TooLarge
from serve_app.schemas.open_inference import InferRequest, InputTensor
from serve_app.types import Json

JSON_LENGTH = "Inference-Header-Content-Length"  # the header with the length of the JSON in bytes
MAX_JSON_BYTES = 1 << 20
MAX_JSON_NUMBERS = 1 << 20  # in an answer; more of them would block the server for seconds
_FLOATS: dict[str, Any] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2")}
_LENGTH = struct.Struct("<I")  # precedes each element of a BYTES tensor


@dataclass(frozen=True)
class Request:
    """A request, with the tensors of its inputs as they were sent."""

    json: InferRequest
    binaries: list[memoryview | None]  # for each input: its binary data, or None if its numbers are in the JSON

    def wants_binary(self, output: str) -> bool:
        """Return whether the client wants the output as binary data."""
        default = self.json.parameters.get("binary_data_output", False)
        named = (one.parameters for one in self.json.outputs or () if one.name == output)
        return next(named, {}).get("binary_data", default) is True


def read_request(body: bytes, json_length: str | None) -> Request:
    """Read the body of a request. ``json_length`` is the value of its header ``JSON_LENGTH``.

    Raise Malformed if the body is not what its header and its JSON say, and TooLarge if it has too much JSON.
    """
    length = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdecimal() and len(json_length) < 12):
            raise Malformed(f"{JSON_LENGTH}: the value is not a number of bytes; send the length of the JSON")
        length = int(json_length)
    if length > len(body):
        raise Malformed(f"{JSON_LENGTH}: the header says {length} bytes of JSON, but the body has {len(body)}")
    if length > MAX_JSON_BYTES:
        raise TooLarge(
            f"json_body: the request has {length} bytes of JSON, and the limit is {MAX_JSON_BYTES >> 20} MiB; send the "
            "tensor as binary data",
            limit="json_body",
        )
    try:
        request = InferRequest.model_validate_json(body[:length])
    except ValidationError as exc:  # pydantic's error would quote the body
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Malformed(f"the inference request is not valid: {place and f'{place}: '}{first['msg']}") from None
    return Request(request, _split(request.inputs, memoryview(body)[length:]))


def _split(inputs: Sequence[InputTensor], rest: memoryview) -> list[memoryview | None]:
    """Return the binary data of each input. Raise Malformed unless their sizes add up to that of ``rest``."""
    binaries: list[memoryview | None] = []
    for one in inputs:
        size = one.parameters.get("binary_data_size")
        if size is None:
            binaries.append(None)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
            raise Malformed(
                "inputs: a binary_data_size is not the size of the data that follows the JSON; perhaps the body is "
                f"truncated, or the header {JSON_LENGTH} is missing"
            )
        binaries.append(rest[:size])
        rest = rest[size:]
    if len(rest):
        raise Malformed(f"the body has {len(rest)} bytes that belong to no input; set each input's binary_data_size")
    return binaries


def read_planes(request: Request, name: str) -> NDArray[np.floating]:
    """Return the images of the request's only input, ``(n, 3, height, width)``. The numbers are not copied.

    Raise InvalidParameter if the input is another tensor, and Malformed if its data do not fit its shape.
    """
    tensor, binary = _only_input(request, name)
    dtype = _FLOATS.get(tensor.datatype)
    if dtype is None:
        raise InvalidParameter(f"inputs: the datatype of {name!r} is FP32 or FP16; convert the tensor")
    shape = tensor.shape
    if len(shape) != 4 or shape[1] != 3 or min(shape) < 1:
        raise InvalidParameter(f"inputs: the shape of {name!r} is [n, 3, height, width], with at least one image")
    count = math.prod(shape)
    if binary is not None:
        if len(binary) != count * dtype.itemsize:
            raise Malformed(
                f"inputs: a tensor of {tensor.datatype} with this shape has {count * dtype.itemsize} bytes, but "
                f"{len(binary)} were sent"
            )
        return np.frombuffer(binary, dtype).reshape(shape)
    try:
        array = np.array(tensor.data, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise Malformed(f"inputs: the data of {name!r} are not numbers; send a flat list of numbers") from None
    if tensor.data is None or array.size != count:
        raise Malformed(f"inputs: the shape of {name!r} means {count} numbers; send as many in data, or as binary data")
    return array.reshape(shape)


def read_elements(request: Request, name: str) -> list[bytes]:
    """Return the elements of the request's only input, whose datatype is BYTES. Raise the errors of ``read_planes``."""
    tensor, binary = _only_input(request, name)
    if tensor.datatype != "BYTES":
        raise InvalidParameter(f"inputs: the datatype of {name!r} is BYTES: send encoded images, such as JPEGs")
    if not 1 <= len(tensor.shape) <= 2 or tensor.shape[1:] not in ([], [1]) or tensor.shape[0] < 1:
        raise InvalidParameter(f"inputs: the shape of {name!r} is [n] or [n, 1], with at least one image")
    if binary is None:
        raise InvalidParameter(f"inputs: JSON cannot contain images; send {name!r} as binary data")
    elements: list[bytes] = []
    while len(binary) >= _LENGTH.size and len(elements) < tensor.shape[0]:
        (size,) = _LENGTH.unpack_from(binary)
        binary = binary[_LENGTH.size :]
        if size > len(binary):
            break
        elements.append(bytes(binary[:size]))
        binary = binary[size:]
    if len(elements) != tensor.shape[0] or len(binary):
        raise Malformed(
            f"inputs: the data of {name!r} are not {tensor.shape[0]} elements, each after its length in 4 bytes"
        )
    return elements


def _only_input(request: Request, name: str) -> tuple[InputTensor, memoryview | None]:
    inputs = request.json.inputs
    if len(inputs) != 1 or inputs[0].name != name:
        raise InvalidParameter(f"inputs: the model has one input, {name!r}; send it, and no other")
    return inputs[0], request.binaries[0]


def check_outputs(request: Request, name: str) -> None:
    """Raise InvalidParameter if the client asks for another output than ``name``, or in a form that does not exist."""
    _check_boolean(request.json.parameters, "binary_data_output")
    for one in request.json.outputs or ():
        if one.name != name:
            raise InvalidParameter(f"outputs: the model has one output, {name!r}; ask for it, or for no output by name")
        if one.parameters.get("classification"):
            raise InvalidParameter("outputs: the parameter classification is not supported; ask for the output itself")
        _check_boolean(one.parameters, "binary_data")


def _check_boolean(parameters: Json, name: str) -> None:
    if not isinstance(parameters.get(name, False), bool):
        raise InvalidParameter(f"{name}: the value is not a boolean; send true or false, without quotes")


def floats(name: str, array: NDArray[np.float32], *, binary: bool) -> tuple[Json, bytes]:
    """Return an output of numbers as JSON, and its binary data. Raise TooLarge if there are too many for JSON."""
    output: Json = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
    if binary:
        data = np.ascontiguousarray(array, "<f4").tobytes()
        return output | {"parameters": {"binary_data_size": len(data)}}, data
    if array.size > MAX_JSON_NUMBERS:
        raise TooLarge(
            f"json_body: the answer has {array.size} numbers, and JSON may have {MAX_JSON_NUMBERS}; ask for binary "
            "data, with the parameter binary_data_output",
            limit="json_body",
        )
    return output | {"data": array.reshape(-1).tolist()}, b""


def texts(name: str, elements: Sequence[str], *, binary: bool) -> tuple[Json, bytes]:
    """Return an output of texts, of the datatype BYTES, as JSON, and its binary data."""
    output: Json = {"name": name, "datatype": "BYTES", "shape": [len(elements)]}
    if not binary:
        return output | {"data": list(elements)}, b""
    encoded = [element.encode() for element in elements]
    data = b"".join(_LENGTH.pack(len(one)) + one for one in encoded)
    return output | {"parameters": {"binary_data_size": len(data)}}, data


def to_response(model: str, version: str, identity: str | None, output: Json, data: bytes) -> Response:
    """Return the answer to a request for inference, with the output's binary data after the JSON."""
    answer: Json = {"model_name": model, "model_version": version, "outputs": [output]}
    if identity is not None:
        answer["id"] = identity
    text = json.dumps(answer, separators=(",", ":")).encode()
    if not data:
        return Response(text, media_type="application/json")
    return Response(text + data, headers={JSON_LENGTH: str(len(text))}, media_type="application/octet-stream")

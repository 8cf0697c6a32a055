"""Find the API key that a request presents, in the places where the clients of the route's protocol can put it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from itertools import islice
from urllib.parse import parse_qsl, urlencode
from weakref import WeakValueDictionary

from python_multipart.multipart import parse_options_header
from starlette.requests import HTTPConnection, Request
from starlette.types import Message, Receive, Scope

from serve_app.api.access.protocols import KeyPlace, Protocol, client_of
from serve_app.api.bodies import json_body_bytes, read_body
from serve_app.api.multipart import TooManyParts, split
from serve_app.config import LimitArgs
from serve_app.errors import DeadlineExceeded, Overloaded, TooLarge, Unauthorized
from serve_app.overload.limits import ConcurrencyLimit

_NAME = "api_key"
_MAX_BODIES = 4  # bodies that are read at the same time before their keys are known
_MAX_BODIES_OF_ADDRESS = 2  # of these, the bodies of one client, so that it cannot keep all others waiting
_MAX_WAITING = 64  # requests whose bodies are read or wait to be read; half of them may be of one client
_WAIT_TIMEOUT_S = 10.0  # until the server begins to read a body
_TIMEOUT_S = 10.0  # from then on, until the body is complete
_MAX_PARTS = 64
_MAX_KEY_CHARS = 512
# We search the JSON instead of parsing it, because a client without a key must not make us build large objects.
_IN_JSON = re.compile(rb'"api_key"\s*:\s*"([^"\\]{1,512})"')
_ADVICE = "retry later, or send the key in the header Authorization: Bearer KEY"
_NO_KEYS = {"", "None", "null"}  # some clients send the text None if they have no key
_WORDS: dict[KeyPlace, str] = {
    "basic": "as the password of HTTP Basic authentication",
    "query": "as the parameter api_key",
    "form": "as the form field api_key",
    "json": "as the field api_key of the JSON body",
}


def take_from_query(scope: Scope, protocol: Protocol | None) -> str:
    """Return the API key in the query, and remove it from there, so that nothing that logs the query can show it.

    If the key may not be in the query, return an empty string. The parameter then stays without its value, so that the
    route can refuse it by its name.
    """
    query: bytes = scope["query_string"]
    if _NAME.encode() not in query and b"%" not in query:
        return ""
    items = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=None)
    keys = [value for name, value in items if name == _NAME]
    if not keys:
        return ""
    others = [(name, value) for name, value in items if name != _NAME]
    may_have_key = protocol is not None and "query" in protocol.key_places
    scope["query_string"] = urlencode(others if may_have_key else [*others, (_NAME, "")]).encode()
    return next((key for key in keys if may_have_key and key not in _NO_KEYS), "")


def in_header(request: HTTPConnection, protocol: Protocol | None) -> str:
    """Return the API key in the header ``Authorization``, or an empty string if there is none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic" and protocol is not None and "basic" in protocol.key_places:
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def missing(protocol: Protocol | None) -> Unauthorized:
    """Return the error for a request without an API key, which says how the client can send one."""
    places = sorted(protocol.key_places) if protocol is not None else []
    ways = ", or ".join(["in the header Authorization: Bearer KEY", *(_WORDS[place] for place in places)])
    return Unauthorized(f"this request needs an API key; send it {ways}")


class _Line:
    """The requests of one address that wait, and the bodies of these requests that are read."""

    def __init__(self) -> None:
        self.waiting = _limit_on_waiting(_MAX_WAITING // 2)
        self.reading = asyncio.Semaphore(_MAX_BODIES_OF_ADDRESS)


class BodyKeys:
    """The reader of the bodies that contain API keys. Such a body is read before its sender is known.

    Only ``_MAX_BODIES`` bodies are read at the same time, so clients without a key cannot fill the memory.
    """

    def __init__(self, limits: LimitArgs) -> None:
        self._limits = limits
        self._reading = asyncio.Semaphore(_MAX_BODIES)
        self._waiting = _limit_on_waiting(_MAX_WAITING)
        self._lines: WeakValueDictionary[str, _Line] = WeakValueDictionary()  # by address; kept by their requests

    async def read(self, request: Request, place: KeyPlace) -> str:
        """Return the API key in the body, or an empty string. The route reads the body again with ``replayed``.

        Raise Overloaded if too many requests wait or this one waits for more than 10 s, DeadlineExceeded if the body is
        not complete within 10 s from then on, and the errors of ``read_body``.
        """
        limits = self._limits
        max_bytes = json_body_bytes(limits) if place == "json" else limits.max_body_mib * 2**20
        line = self._lines.setdefault(client_of(request), _Line())
        is_reading = False
        with self._waiting.one(), line.waiting.one():
            try:
                async with asyncio.timeout(_WAIT_TIMEOUT_S) as timeout, line.reading, self._reading:
                    timeout.reschedule(asyncio.get_running_loop().time() + _TIMEOUT_S)
                    is_reading = True
                    body = await read_body(request, max_bytes, "limits.max_body_mib")
                    key = await _in_form(request, body) if place == "form" else await asyncio.to_thread(_in_json, body)
            except TimeoutError as exc:
                if not is_reading:
                    raise Overloaded(
                        f"bodies_with_keys: other requests with an API key in the body took {_WAIT_TIMEOUT_S:g} s; "
                        f"{_ADVICE}",
                        limit="bodies_with_keys",
                    ) from exc
                raise DeadlineExceeded(
                    f"the body with the API key was not complete within {_TIMEOUT_S:g} s; send it faster, or send the "
                    "key in the header Authorization: Bearer KEY"
                ) from exc
        request.scope["state"]["body"] = body
        return key


def _limit_on_waiting(count: int) -> ConcurrencyLimit:
    refusal = f"{count} requests with an API key in the body wait to be read, which is the limit; {_ADVICE}"
    return ConcurrencyLimit(count, "bodies_with_keys", refusal)


def replayed(scope: Scope, receive: Receive) -> Receive:
    """Return a ``receive`` that first returns the body that ``BodyKeys`` has read, if it has read one."""
    body = scope["state"].pop("body", None)
    if body is None:
        return receive
    unusable = {b"content-encoding", b"content-length", b"transfer-encoding"}  # the body is no longer compressed
    headers = [header for header in scope["headers"] if header[0] not in unusable]
    scope["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def _in_form(request: Request, body: bytes) -> str:
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    boundary = parameters.get(b"boundary")
    if not kind.startswith(b"multipart/") or not boundary:
        return ""
    try:
        parts = await split(body, boundary, _MAX_PARTS)
    except TooManyParts:
        raise TooLarge(
            f"form_parts: the form has more than {_MAX_PARTS} parts, which is the limit; send fewer", limit="form_parts"
        ) from None
    found = (part.data for part in parts if part.name == _NAME and len(part.data) <= _MAX_KEY_CHARS)
    return next((key for data in found if (key := data.decode("utf-8", "replace").strip()) not in _NO_KEYS), "")


def _in_json(body: bytes) -> str:
    """Return the first key. A client sends one, so only a few places are looked at."""
    keys = (found[1].decode("utf-8", "replace") for found in islice(_IN_JSON.finditer(body), 8))
    return next((key for key in keys if key not in _NO_KEYS), "")

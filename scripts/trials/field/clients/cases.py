"""Cases of real clients' requests. Each request must be answered like an ordinary request, or refused.

The text of a refusal must say what to do instead.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

import cv2

from scripts.codes.samples import picture
from scripts.trials.field.case import Case
from scripts.trials.field.clients.requests import (
    ACCEPTS_JSON,
    ACCEPTS_PICTURE,
    Sent,
    codings,
    multipart_forms,
    parameters,
    refused,
    texts,
    types,
)

_TIMEOUT_S = 30.0
_NO_STREAM = json.dumps(
    {"id": "field-clients", "source": {"uri": "gopher://nowhere"}}
).encode()  # streams do not support the URI scheme gopher


@cache
def _picture() -> bytes:
    return bytes(cv2.imencode(".jpg", picture(1).pixels)[1])


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    return parts.hostname, parts.port or 80


def _ask(url: str, method: str, sent: Sent) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(*_address(url), timeout=_TIMEOUT_S)
    try:
        connection.request(method, sent.path, sent.body or None, sent.headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def _found(url: str, sent: Sent) -> Any:
    """Send a request. Return the detections, or the status and the text of the refusal."""
    status, _, body = _ask(url, "POST", sent)
    if status != 200:
        return f"{status} {body[:200]!r}"
    return json.loads(body).get("detections")


@cache
def _made(make: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
    return make(_picture())


def _same(make: Callable[[bytes], dict[str, Any]], member: str, path: str, url: str) -> str | None:
    found, expected = _found(url, _made(make)[member]), _found(url, Sent(_picture(), {}, path))
    if not isinstance(expected, list) or not expected:
        return f"the plain request detects nothing: {expected}"
    return None if found == expected else f"the answer differs from that to a plain request: {str(found)[:300]}"


def _refusal(member: str, url: str) -> str | None:
    sent, status, word = _made(refused)[member]
    return _refused(sent, status, word, url)


def _refused_text(member: str, url: str) -> str | None:
    return _refused(_made(texts)[member], 415, "--data-binary", url)


def _refused(sent: Sent, status: int, word: str, url: str) -> str | None:
    got, _, body = _ask(url, "POST", sent)
    detail = json.loads(body).get("detail", "") if body.startswith(b"{") else repr(body[:100])
    return (
        None
        if got == status and word in detail
        else f"the answer is {got} {detail}, and should be {status} with {word!r}"
    )


def _kind_of_answer(accept: str, media_type: str, url: str) -> str | None:
    status, headers, _ = _ask(url, "POST", Sent(_picture(), {"Accept": accept}))
    got = headers.get_content_type()
    return (
        None if (status, got) == (200, media_type) else f"the answer is {status} {got}, and should be 200 {media_type}"
    )


def _raw(make: Callable[[bytes], dict[str, Any]], member: str, closes: bool, url: str) -> str | None:
    """Send a request over a plain socket and check that a complete answer arrives.

    If ``closes`` is true, the client closes its sending side of the connection after the request.
    """
    parts = _made(make)[member]
    with socket.create_connection(_address(url), timeout=_TIMEOUT_S) as client:
        for one in parts:
            client.sendall(one)
        if closes:
            client.shutdown(socket.SHUT_WR)
        try:
            answer = b"".join(iter(partial(client.recv, 1 << 16), b""))
        except OSError as exc:
            return f"the connection broke: {exc}"
    final = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None if final[8:13] == b" 200 " else f"the answer is {answer[:100]!r}"


def _by_hand(
    method: bytes = b"GET", path: bytes = b"/health", version: bytes = b"1.1", headers: bytes = b"", body: bytes = b""
) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return b"%b %b HTTP/%b\r\nHost: localhost\r\n%b%b\r\n%b" % (method, path, version, headers, length, body)


def half_closed(jpeg: bytes) -> dict[str, tuple[bytes, ...]]:
    """Return raw requests after which the client closes its sending side of the connection."""
    close = b"Connection: close\r\n"
    head, end = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n', b"\r\n--B--\r\n"
    kind = b"Content-Type: multipart/form-data; boundary=B\r\n"
    return {
        "nc -N": (_by_hand(),),
        "nc -N, Connection: close": (_by_hand(headers=close),),
        "HTTP/1.0": (_by_hand(version=b"1.0"),),
        "HTTP/1.0 with a User-Agent": (_by_hand(version=b"1.0", headers=b"User-Agent: plc/2\r\n"),),
        "/models": (_by_hand(path=b"/models", headers=close),),
        "an image": (_by_hand(b"POST", b"/detect", body=jpeg),),
        "an image, Connection: close": (_by_hand(b"POST", b"/detect", headers=close, body=jpeg),),
        "an image, answered as an annotated image": (
            _by_hand(b"POST", b"/detect", headers=close + b"Accept: image/jpeg\r\n", body=jpeg),
        ),
        "a form": (_by_hand(b"POST", b"/detect", headers=kind, body=head + jpeg + end),),
        "an image by HTTP/1.0": (_by_hand(b"POST", b"/detect", b"1.0", body=jpeg),),
    }


def connections(jpeg: bytes) -> dict[str, tuple[bytes, ...]]:
    """Return raw requests that use the connection in unusual ways. Each is split into the parts to send."""
    close = b"Connection: close\r\nUser-Agent: field/1\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (jpeg[:7], jpeg[7:5000], jpeg[5000:])) + b"0\r\n\r\n"
    expecting = _by_hand(b"POST", b"/detect", headers=close + b"Expect: 100-continue\r\n", body=jpeg)
    return {
        "HTTP/1.0": (_by_hand(version=b"1.0"),),
        "an image by HTTP/1.0": (_by_hand(b"POST", b"/detect", b"1.0", headers=b"User-Agent: a/1\r\n", body=jpeg),),
        "chunks": (_by_hand(b"POST", b"/detect", headers=close + b"Transfer-Encoding: chunked\r\n"), chunks),
        "Expect: 100-continue": (expecting[: -len(jpeg)], jpeg),
        "Expect: 100-Continue, of .NET": (expecting.replace(b"100-c", b"100-C"),),
        "an absolute address": (_by_hand(path=b"http://localhost/health", headers=close),),
        "two requests at once": (_by_hand(headers=b"User-Agent: a/1\r\n"), _by_hand(headers=close)),
        "headers in capitals": (_by_hand(headers=close).replace(b"Host", b"HOST"),),
    }


def _alike(kind: str, make: Callable[[bytes], dict[str, Any]], path: str = "/detect") -> list[Case]:
    """Return cases whose requests must be answered like a plain request to ``path``."""
    return [Case(kind, member, partial(_same, make, member, path)) for member in make(b"")]


def _by_hands(kind: str, make: Callable[[bytes], dict[str, Any]], *, closes: bool) -> list[Case]:
    return [Case(kind, member, partial(_raw, make, member, closes)) for member in make(b"")]


def _status(method: str, path: str, headers: dict[str, str], expected: int, word: str, url: str) -> str | None:
    body = _NO_STREAM if path == "/streams" else _picture() if method in {"POST", "PUT"} else b""
    status, _, answer = _ask(url, method, Sent(body, headers, path))
    return (
        None
        if status == expected and word.encode() in answer
        else f"the answer is {status} {answer[:200]!r}, and should be {expected} {word}"
    )


_TYPES_OF_JSON = ("application/x-www-form-urlencoded", "text/plain", "text/json", "application/json", "*/*")
_PATHS: dict[str, tuple[str, str, dict[str, str], int, str]] = {
    "a slash at the end": ("POST", "/detect/", {}, 200, "detections"),
    "two slashes at the beginning": ("POST", "//detect", {}, 200, "detections"),
    "/health/": ("GET", "/health/", {}, 200, "ok"),
    "HEAD": ("HEAD", "/health", {}, 200, ""),
    "OPTIONS": ("OPTIONS", "/detect", {}, 405, "use POST"),
    "curl -T": ("PUT", "/detect", {}, 405, "use POST"),
    "a browser at /detect": ("GET", "/detect", {}, 405, "use POST"),
}
CASES: tuple[Case, ...] = (
    *(Case("Accept: JSON", m, partial(_kind_of_answer, a, "application/json")) for m, a in ACCEPTS_JSON.items()),
    *(Case("Accept: image", m, partial(_kind_of_answer, a, "image/jpeg")) for m, a in ACCEPTS_PICTURE.items()),
    *_by_hands("half-closed sockets", half_closed, closes=True),
    *_by_hands("connections", connections, closes=False),
    *_alike("multipart bodies", multipart_forms),
    *_alike("types of an image", types),
    *_alike("content codings", codings),
    *_alike("names of parameters", parameters, "/detect?confidence=0.3"),
    *(Case("refusals", member, partial(_refusal, member)) for member in refused(b"")),
    *(Case("text for an image", member, partial(_refused_text, member)) for member in texts(b"")),
    *(
        Case(
            "types of JSON",
            f"called {kind}",
            partial(_status, "POST", "/streams", {"Content-Type": kind}, 422, "invalid_source"),
        )
        for kind in _TYPES_OF_JSON
    ),
    *(Case("paths and methods", member, partial(_status, *one)) for member, one in _PATHS.items()),
)

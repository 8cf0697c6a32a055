"""Webhooks: events as POST requests, signed as https://www.standardwebhooks.com says."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import ssl
import time
from contextlib import suppress

import httpx

from serve_app.errors import InvalidParameter
from serve_app.stream_schemas import WebhookSink
from serve_app.streams.sinks.outlet import TIMEOUT_S, Refused, Unsent, address, parse_url
from serve_app.types import Event

_MAY_PASS = {408, 429}  # of the refusals
_MAX_ANSWER_BYTES = 65_536  # read so that the connection can be kept; nobody looks at them
_KEY_BYTES = range(24, 65)  # by the specification

logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it writes every request's address, its secrets included


class WebhookOutlet:
    """Posts ``{"events": […]}``. The request's id is its content's: a receiver knows one that was sent twice."""

    def __init__(self, spec: WebhookSink) -> None:
        """Raises InvalidParameter for a malformed url or secret."""
        parts = parse_url(spec.url)
        self.target = f"{address(parts)}/…"
        self.max_batch = spec.max_batch
        self._key = _parse_secret(spec.secret) if spec.secret else None
        try:
            self._url = httpx.URL(spec.url)
        except httpx.InvalidURL:
            raise InvalidParameter("a sink's url is no valid address") from None  # its text may hold the url
        tls = ssl.create_default_context()  # the system's authorities
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, verify=tls, trust_env=False, follow_redirects=False)

    async def send(self, events: list[Event]) -> None:
        """One request."""
        body = f'{{"events": [{", ".join(event.json for event in events)}]}}'.encode()
        headers = {"content-type": "application/json"} | self._signature(body)
        try:
            async with self._http.stream("POST", self._url, content=body, headers=headers) as response:
                await _read(response)
        except httpx.TimeoutException as exc:
            raise Unsent(f"no answer within {TIMEOUT_S:g} s") from exc
        except httpx.ConnectError as exc:
            raise Unsent(f"it cannot be reached: {exc}") from exc
        except httpx.TransportError as exc:
            raise Unsent(f"the connection broke: {type(exc).__name__}") from exc
        if response.is_success:
            return
        if response.is_server_error or response.status_code in _MAY_PASS:
            raise Unsent(f"it answers {response.status_code}")
        raise Refused(f"it answers {response.status_code}")

    async def close(self) -> None:
        """The connection."""
        await self._http.aclose()

    def _signature(self, body: bytes) -> dict[str, str]:
        message_id = f"msg_{hashlib.sha256(body).hexdigest()[:32]}"
        timestamp = str(int(time.time()))  # of this attempt: receivers refuse old ones
        headers = {"webhook-id": message_id, "webhook-timestamp": timestamp}
        if self._key is not None:
            digest = hmac.digest(self._key, f"{message_id}.{timestamp}.".encode() + body, "sha256")
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return headers


def _parse_secret(secret: str) -> bytes:
    prefix, _, text = secret.partition("_")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if prefix != "whsec" or len(key) not in _KEY_BYTES:
        raise InvalidParameter("a webhook's secret is whsec_ and the base64 of 24 to 64 bytes")
    return key


async def _read(response: httpx.Response) -> None:
    """The answer's body, not more than is sensible."""
    size = 0
    with suppress(httpx.TransportError):  # its status is there already
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > _MAX_ANSWER_BYTES:
                return

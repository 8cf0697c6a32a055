"""Webhooks: events as POST requests, signed as https://www.standardwebhooks.com says."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from contextlib import suppress

from serve_app.errors import InvalidParameter, InvalidUrl, TooLarge
from serve_app.network.address_guard import AddressGuard
from serve_app.network.http import GuardedHttp, NoAnswer, Reply, parse_http_url
from serve_app.schemas.streams import WebhookSink
from serve_app.streams.outputs.sinks.outlet import TIMEOUT_S, DeliveryFailed, DeliveryRefused, address, parse_url
from serve_app.types import Event

_TOTAL_S = 3 * TIMEOUT_S  # of a request: one that is answered letter by letter is not answered
_MAY_PASS = {408, 429}  # of the refusals
_MAX_ANSWER_BYTES = 65_536  # read so that the connection can be kept; nobody looks at them
_KEY_BYTES = range(24, 65)  # by the specification


class WebhookOutlet:
    """Posts ``{"events": […]}``. The request's id is its content's: a receiver knows one that was sent twice."""

    def __init__(self, spec: WebhookSink, guard: AddressGuard) -> None:
        """Raises InvalidParameter for a malformed url or secret."""
        parts = parse_url(spec.url)
        self.target = f"{address(parts)}/…"
        self.max_batch = spec.max_batch
        self._key = _parse_secret(spec.secret) if spec.secret else None
        self._url = parse_http_url(spec.url)
        self._http = GuardedHttp(guard, timeout_s=TIMEOUT_S, kept=1)

    async def send(self, events: list[Event]) -> None:
        """One request."""
        body = f'{{"events": [{", ".join(event.json for event in events)}]}}'.encode()
        headers = {"content-type": "application/json"} | self._signature(body)
        try:
            async with asyncio.timeout(_TOTAL_S), self._http.stream("POST", self._url, headers, body) as reply:
                await _read(reply)
        except InvalidUrl as exc:
            raise DeliveryRefused(exc.detail) from exc
        except NoAnswer as exc:
            raise DeliveryFailed(str(exc)) from exc
        except TimeoutError as exc:
            raise DeliveryFailed(f"no answer within {_TOTAL_S:g} s") from exc
        if 200 <= reply.status < 300:
            return
        if reply.status >= 500 or reply.status in _MAY_PASS:
            raise DeliveryFailed(f"it answers {reply.status}")
        raise DeliveryRefused(f"it answers {reply.status}")

    async def close(self) -> None:
        """The connection."""
        await self._http.close()

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


async def _read(reply: Reply) -> None:
    """The answer's body, not more than is sensible."""
    with suppress(NoAnswer, TooLarge, TimeoutError):  # its status is there already
        async with asyncio.timeout(TIMEOUT_S):
            await reply.read(_MAX_ANSWER_BYTES)

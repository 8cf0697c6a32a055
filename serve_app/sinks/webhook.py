"""The webhook sink, which sends POST requests that are signed as https://www.standardwebhooks.com specifies."""

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
from serve_app.sinks.outlet import TIMEOUT_S, DeliveryFailed, DeliveryRefused, parse_url, server_address
from serve_app.types import Event

_TOTAL_TIMEOUT_S = 3 * TIMEOUT_S  # for the whole request, because the response may arrive byte by byte
_RETRIED_STATUSES = {408, 429}  # in addition to all 5xx statuses
_MAX_RESPONSE_BYTES = 65_536  # a connection can be reused only after the response was read
_KEY_BYTES = range(24, 65)  # the key sizes that the specification allows


class WebhookOutlet:
    """Posts JSON of the form ``{"events": […]}``.

    The message id is derived from the body, so that receivers can recognise a retry.
    """

    def __init__(self, spec: WebhookSink, guard: AddressGuard) -> None:
        """Check the settings. Raise InvalidParameter if the URL or the secret is malformed."""
        parts = parse_url(spec.url)
        self.target = f"{server_address(parts)}/…"
        self.max_batch = spec.max_batch
        self._key = _parse_secret(spec.secret) if spec.secret else None
        self._url = parse_http_url(spec.url)
        self._http = GuardedHttp(guard, timeout_s=TIMEOUT_S, kept=1)

    async def send(self, events: list[Event]) -> None:
        """Send the events in one request."""
        body = f'{{"events": [{", ".join(event.json for event in events)}]}}'.encode()
        headers = {"content-type": "application/json"} | self._signature(body)
        try:
            async with (
                asyncio.timeout(_TOTAL_TIMEOUT_S),
                self._http.stream("POST", self._url, headers, body) as reply,
            ):
                await _read(reply)
        except InvalidUrl as exc:
            raise DeliveryRefused(exc.detail) from exc
        except NoAnswer as exc:
            raise DeliveryFailed(str(exc)) from exc
        except TimeoutError as exc:
            raise DeliveryFailed(f"no answer within {_TOTAL_TIMEOUT_S:g} s") from exc
        if 200 <= reply.status < 300:
            return
        if reply.status >= 500 or reply.status in _RETRIED_STATUSES:
            raise DeliveryFailed(f"the server answered {reply.status}")
        raise DeliveryRefused(f"the server answered {reply.status}")

    async def close(self) -> None:
        """Close the connections to the server."""
        await self._http.close()

    def _signature(self, body: bytes) -> dict[str, str]:
        message_id = f"msg_{hashlib.sha256(body).hexdigest()[:32]}"
        timestamp = str(int(time.time()))  # not the event's time, because receivers refuse old timestamps
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
        raise InvalidParameter("sinks: secret must be whsec_ followed by 24 to 64 bytes in base64")
    return key


async def _read(reply: Reply) -> None:
    """Read the response body, up to 64 KiB."""
    with suppress(NoAnswer, TooLarge, TimeoutError):  # ignored, because the status has arrived already
        async with asyncio.timeout(TIMEOUT_S):
            await reply.read(_MAX_RESPONSE_BYTES)

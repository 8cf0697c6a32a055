"""Sessions: signed cookies with which a browser uses an API key, so that the page itself need not keep the key.

A cookie has the key's name, the time at which it expires, and a nonce. Its signature also covers the hash of the key.
A cookie is therefore worth nothing without its key's entry in the API-key file, and the server stores no sessions.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from starlette.requests import HTTPConnection

from serve_app.api.access.keys import Key
from serve_app.api.access.secret import load_secret

COOKIE = "sightline_session"
MAX_AGE_S = 8 * 3600
_MAX_COOKIE_CHARS = 1024
_NONCE_BYTES = 16


@dataclass(frozen=True)
class Session:
    """A session of a browser that has signed in with an API key."""

    key: Key
    expires_at_s: float  # seconds since the epoch
    csrf_token: str  # a page must send it with every request that changes something


class Sessions:
    """Signs the cookies of sessions, and reads them."""

    def __init__(self, folder: Path, clock_s: Callable[[], float] = time.time) -> None:
        """Prepare to sign with the secret in ``folder``, which is read when it is first needed."""
        self._folder = folder
        self._clock_s = clock_s
        self._secret: bytes | None = None

    async def open(self, key: Key) -> tuple[Session, str]:
        """Return a new session of a key, and the value of its cookie. Raise Unavailable as ``load_secret`` does."""
        secret = await self._loaded()
        expires_at_s = int(self._clock_s()) + MAX_AGE_S
        body = _encoded(json.dumps([key.name, expires_at_s, secrets.token_urlsafe(_NONCE_BYTES)]).encode())
        return _session(secret, body, key, expires_at_s), f"{body}.{_signature(secret, body, key)}"

    async def read(self, cookie: str, keys: Sequence[Key]) -> Session | None:
        """Return the session of a cookie. Return None if the cookie has expired or was not signed for one of ``keys``.

        Raise Unavailable as ``load_secret`` does.
        """
        body, _, signature = cookie.partition(".")
        try:
            name, expires_at_s, _ = json.loads(base64.urlsafe_b64decode(body.encode("ascii") + b"=="))
        except (ValueError, TypeError, RecursionError):
            return None
        secret = await self._loaded()
        found = None
        for key in keys:  # several keys may have the same name
            if key.name == name and hmac.compare_digest(_signature(secret, body, key).encode(), signature.encode()):
                found = key
        # What is used below is signed, so it has the form that ``open`` gave it.
        if found is None or found.has_expired() or self._clock_s() >= expires_at_s:
            return None
        return _session(secret, body, found, expires_at_s)

    async def _loaded(self) -> bytes:
        if self._secret is None:
            self._secret = await asyncio.to_thread(load_secret, self._folder)
        return self._secret


def cookie_name(request: HTTPConnection) -> str:
    """Return the name of a session's cookie, with the port and the path prefix of the application.

    A browser sends a cookie to all ports of a host, and several services may run on one host.
    """
    try:
        port = urlsplit(f"//{request.headers.get('host', '')}").port
    except ValueError:
        port = None
    prefix = quote(request.scope.get("root_path", "").strip("/"), safe="").replace("%", "-")
    return COOKIE + (f"_{port}" if port else "") + (f"_{prefix}" if prefix else "")


def in_cookie(request: HTTPConnection) -> str:
    """Return the value of the session's cookie, or an empty string.

    If there are several, another host of the domain may have set one of them, so none of them is used.
    """
    own = cookie_name(request)
    pairs = (part.partition("=") for header in request.headers.getlist("cookie") for part in header.split(";"))
    values = [value.strip() for name, _, value in pairs if name.strip() == own]
    return values[0] if len(values) == 1 and len(values[0]) <= _MAX_COOKIE_CHARS else ""


def _session(secret: bytes, body: str, key: Key, expires_at_s: float) -> Session:
    return Session(key, expires_at_s, _hmac(secret, f"csrf {body} {key.sha256}"))


def _signature(secret: bytes, body: str, key: Key) -> str:
    return _hmac(secret, f"session {body} {key.sha256}")


def _hmac(secret: bytes, text: str) -> str:
    return _encoded(hmac.digest(secret, text.encode(), hashlib.sha256))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")  # in a cookie, a browser would get quotes around a =

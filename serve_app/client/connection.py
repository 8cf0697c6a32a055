"""The server's address, and the connection settings that both clients share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from serve_app.client.errors import ClientClosed, ConnectionFailed

if TYPE_CHECKING:
    import ssl

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Endpoint:
    """A server's address, and the settings for connections to it."""

    url: str  # without credentials, because errors show it
    options: dict[str, Any] = field(repr=False)  # arguments of httpx.Client and httpx.AsyncClient, with the API key
    timeout_s: float

    @classmethod
    def of(cls, url: str | None, api_key: str | None, timeout_s: float) -> Endpoint:
        """Return the endpoint for these arguments. If an argument is None, it is read from the environment.

        Raise ValueError if the URL or the key is malformed, or if the certificates in SSL_CERT_FILE or SSL_CERT_DIR
        cannot be read. The errors never quote a credential.
        """
        key = _key(api_key or os.environ.get("SIGHTLINE_KEY") or "")
        parsed = _parse((url or os.environ.get("SIGHTLINE_URL") or "").strip() or DEFAULT_URL)
        if key and parsed.userinfo:
            # httpx would send the URL's user name and password instead of the key.
            raise ValueError("url: it has a user name or password, and an API key is set too; remove one of them")
        options = {
            "base_url": parsed,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": timeout_s,
            # The number of connections has no limit, because each followed stream needs its own connection.
            "limits": httpx.Limits(max_keepalive_connections=20),
            "verify": _trusted() if parsed.scheme == "https" else False,  # loading certificates is slow
            "trust_env": False,  # a proxy in the environment is usually not meant for this server
        }
        return cls(str(parsed.copy_with(userinfo=b"")).rstrip("/"), options, timeout_s)

    @contextmanager
    def errors(self, http: httpx.Client | httpx.AsyncClient) -> Iterator[None]:
        """Turn the errors of httpx into ConnectionFailed, and raise ClientClosed if the client is closed."""
        if http.is_closed:  # httpx would raise RuntimeError
            raise ClientClosed("this client is closed; create a new one")
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise ConnectionFailed(
                f"no server responds at {self.url}{f' ({exc})' if str(exc) else ''}; check the url, and that the "
                "server is running"
            ) from exc
        except httpx.TimeoutException as exc:
            raise ConnectionFailed(
                f"no response from {self.url} within {self.timeout_s:g} s; retry or raise timeout_s"
            ) from exc
        except httpx.RequestError as exc:
            raise ConnectionFailed(f"the connection to {self.url} failed: {str(exc) or type(exc).__name__}") from exc


def _key(text: str) -> str:
    key = text.strip()
    if not re.fullmatch("[!-~]*", key):
        raise ValueError(
            "api_key: it must have only printable ASCII characters and no spaces; check the argument or SIGHTLINE_KEY"
        )
    return key


def _trusted() -> ssl.SSLContext | bool:
    """Return the certificates from SSL_CERT_FILE or SSL_CERT_DIR, as httpx would with ``trust_env``."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not (file or folder):
        return True  # httpx then uses certifi's certificates
    import ssl

    try:
        return ssl.create_default_context(cafile=file or None, capath=None if file else folder)
    except OSError as exc:  # ssl.SSLError is an OSError
        name, path = ("SSL_CERT_FILE", file) if file else ("SSL_CERT_DIR", folder)
        raise ValueError(f"{name}: no certificates can be read from {path} ({exc}); correct or unset it") from exc


def _parse(text: str) -> httpx.URL:
    """Return the parsed URL. Errors never quote text with an ``@``, because it may contain a password."""
    shown = "text with an @" if "@" in text else repr(text)
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL as exc:
        if "@" in text:
            raise ValueError("url: it is malformed; percent-encode the user name and the password") from None
        raise ValueError(f"url: {exc}") from exc
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"url: expected http://… or https://…, such as {DEFAULT_URL}, but got {shown}")
    if "?" in text or "#" in text:
        raise ValueError("url: it has a query or a fragment (after ? or #); remove it")
    if "@" in parsed.path:
        # An ``@`` in the path usually means that the password contains a slash.
        raise ValueError("url: it has an @ in its path; percent-encode the user name and the password")
    return parsed

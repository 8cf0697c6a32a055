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
    options: dict[str, Any] = field(repr=False)  # for httpx.Client and httpx.AsyncClient; they include the API key
    timeout_s: float

    @classmethod
    def of(cls, url: str | None, api_key: str | None, timeout_s: float) -> Endpoint:
        """Return the server that the arguments name; an argument that is None comes from the environment.

        Raise ValueError if the URL or the key is malformed, or if the certificates of SSL_CERT_FILE or SSL_CERT_DIR
        cannot be read. No error quotes a credential.
        """
        key = _key(api_key or os.environ.get("SIGHTLINE_KEY") or "")
        parsed = _parse((url or os.environ.get("SIGHTLINE_URL") or "").strip() or DEFAULT_URL)
        if key and parsed.userinfo:
            # httpx would send the user name and password of the URL instead of the key.
            raise ValueError("url: it has a user name or password, and an API key is set too; remove one of them")
        options = {
            "base_url": parsed,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": timeout_s,
            # The number of connections has no limit, because each followed stream holds one.
            "limits": httpx.Limits(max_keepalive_connections=20),
            "verify": _trusted() if parsed.scheme == "https" else False,  # loading certificates is slow
            "trust_env": False,  # the environment's proxy is for the internet, not for this server
        }
        return cls(str(parsed.copy_with(userinfo=b"")).rstrip("/"), options, timeout_s)

    @contextmanager
    def errors(self, http: httpx.Client | httpx.AsyncClient) -> Iterator[None]:
        """Turn the errors of httpx into ConnectionFailed, and raise ClientClosed if the client is closed."""
        if http.is_closed:  # httpx would raise RuntimeError
            raise ClientClosed("this client is closed; make a new one")
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise ConnectionFailed(
                f"no server responds at {self.url}{f' ({exc})' if str(exc) else ''}; check the url and the server"
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
    """Return the trusted certificates that the environment names, as httpx does when it reads the environment."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not (file or folder):
        return True  # the certificates of certifi
    import ssl

    try:
        return ssl.create_default_context(cafile=file or None, capath=None if file else folder)
    except OSError as exc:  # ssl.SSLError is one
        name, path = ("SSL_CERT_FILE", file) if file else ("SSL_CERT_DIR", folder)
        raise ValueError(f"{name}: no certificates can be read from {path} ({exc}); correct or unset it") from exc


def _parse(text: str) -> httpx.URL:
    """Return the parsed URL. Text with an ``@`` may contain a password, so it is never quoted."""
    shown = "a text with an @" if "@" in text else repr(text)
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
        # Such a path is usually the rest of a password that contains a slash.
        raise ValueError("url: it has an @ in its path; percent-encode the user name and the password")
    return parsed

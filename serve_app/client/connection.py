"""Where the server is, and how both clients connect to it."""

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
    """A server's address, and the time it is given."""

    url: str  # without credentials: it is shown in errors
    options: dict[str, Any] = field(repr=False)  # of httpx.Client and httpx.AsyncClient: the key is in them
    timeout_s: float

    @classmethod
    def of(cls, url: str | None, api_key: str | None, timeout_s: float) -> Endpoint:
        """Return the server that the arguments name, or else the environment.

        Raises ValueError for a malformed url or key, and for certificates of SSL_CERT_FILE or SSL_CERT_DIR that
        cannot be read. No error quotes a credential.
        """
        key = _key(api_key or os.environ.get("SIGHTLINE_KEY") or "")
        parsed = _parse((url or os.environ.get("SIGHTLINE_URL") or "").strip() or DEFAULT_URL)
        if key and parsed.userinfo:
            # httpx would send the name and the password of the url in place of the key.
            raise ValueError("url: it has a user name or a password, and there is an API key too: remove one of them")
        options = {
            "base_url": parsed,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": timeout_s,
            "limits": httpx.Limits(max_keepalive_connections=20),  # and any number: each followed stream holds one
            "verify": _trusted() if parsed.scheme == "https" else False,  # reading certificates takes a while
            "trust_env": False,  # a proxy for the outside world must not stand before the server
        }
        return cls(str(parsed.copy_with(userinfo=b"")).rstrip("/"), options, timeout_s)

    @contextmanager
    def errors(self, http: httpx.Client | httpx.AsyncClient) -> Iterator[None]:
        """Raise ConnectionFailed where httpx says that no answer came."""
        if http.is_closed:  # httpx would raise RuntimeError
            raise ClientClosed("this client is closed")
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise ConnectionFailed(f"nobody answers at {self.url}" + (f" ({exc})" if str(exc) else "")) from exc
        except httpx.TimeoutException as exc:
            raise ConnectionFailed(f"no answer from {self.url} within {self.timeout_s:g} s") from exc
        except httpx.RequestError as exc:
            raise ConnectionFailed(f"the connection to {self.url} broke: {str(exc) or type(exc).__name__}") from exc


def _key(text: str) -> str:
    key = text.strip()
    if not re.fullmatch("[!-~]*", key):
        raise ValueError(
            "api_key: a key has only printable ASCII characters and no blanks: check the argument or SIGHTLINE_KEY"
        )
    return key


def _trusted() -> ssl.SSLContext | bool:
    """Return the certificates that the environment names, as httpx would if it read the environment."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not (file or folder):
        return True  # those of certifi
    import ssl

    try:
        return ssl.create_default_context(cafile=file or None, capath=None if file else folder)
    except OSError as exc:  # ssl.SSLError is one
        name, path = ("SSL_CERT_FILE", file) if file else ("SSL_CERT_DIR", folder)
        raise ValueError(f"{name}: no certificates can be read from {path}: {exc}") from exc


def _parse(text: str) -> httpx.URL:
    """Return the parts of a url. Text with an ``@`` may hold a password, and is never quoted."""
    shown = "another text" if "@" in text else repr(text)
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL as exc:
        if "@" in text:
            raise ValueError("url: it is malformed: percent-encode its user name and its password") from None
        raise ValueError(f"url: {exc}") from exc
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"url: expected http://… or https://…, such as {DEFAULT_URL}, but got {shown}")
    if "?" in text or "#" in text:
        raise ValueError("url: it has a query or a fragment, after ? or #: leave that out")
    if "@" in parsed.path:
        # Such a path is mostly the rest of a password that contains a slash.
        raise ValueError("url: it has an @ in its path: percent-encode its user name and its password")
    return parsed

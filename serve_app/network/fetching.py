"""Fetch images whose URLs clients send, with the guarded HTTP client."""

from __future__ import annotations

import httpx

from serve_app.errors import InvalidUrl, Unfetchable, UrlUnavailable
from serve_app.network.address_guard import NOT_ALLOWED, AddressGuard
from serve_app.network.http import (
    REDIRECTS,
    GuardedHttp,
    NoAnswer,
    NoSuchHost,
    Reply,
    TooManySmallChunks,
    parse_http_url,
)

_TIMEOUT_S = 5.0  # for each step, such as connecting; the caller's deadline limits the total
_MAX_REDIRECTS = 3
_BUSY = {408, 425, 429}  # statuses below 500 that ask to send the request again later
_HEADERS = {"User-Agent": "sightline", "Accept": "image/*", "Accept-Encoding": "identity"}


class PictureFetcher:
    """Fetches images. Its errors reveal neither the URL nor anything about the internal network."""

    def __init__(self, guard: AddressGuard, max_bytes: int) -> None:
        self._http = GuardedHttp(guard, timeout_s=_TIMEOUT_S)
        self._max_bytes = max_bytes

    async def fetch(self, url: str) -> bytes:
        """Return the bytes at the URL.

        Raise InvalidUrl, Unfetchable or TooLarge if the image cannot be fetched, and UrlUnavailable if its server may
        recover.
        """
        try:
            return await self._follow(_parse(url))
        # A host name that does not exist gets the same error as a forbidden address, so that clients cannot probe
        # which host names exist.
        except NoSuchHost as exc:
            raise InvalidUrl(NOT_ALLOWED) from exc
        except TooManySmallChunks as exc:
            raise Unfetchable("url: the server sends its response in pieces that are too small") from exc
        except NoAnswer as exc:
            raise UrlUnavailable("url: the server cannot be reached, or does not respond in time") from exc

    async def close(self) -> None:
        """Close all idle connections."""
        await self._http.close()

    async def _follow(self, url: httpx.URL) -> bytes:
        for _ in range(1 + _MAX_REDIRECTS):
            async with self._http.stream("GET", url, _HEADERS) as reply:
                if reply.status not in REDIRECTS:
                    return await self._read(reply)
                url = _target(url, reply.header("location"))
        raise Unfetchable(f"url: it is redirected more than {_MAX_REDIRECTS} times; send the URL of the image itself")

    async def _read(self, reply: Reply) -> bytes:
        if reply.status != 200:
            may_recover = reply.status in _BUSY or reply.status >= 500
            error = UrlUnavailable if may_recover else Unfetchable
            raise error(f"url: the server responds with status {reply.status} instead of 200")
        if reply.header("content-encoding") not in {"", "identity"}:
            raise Unfetchable("url: the server compresses its response, although it was asked not to")
        return await reply.read(self._max_bytes, "limits.max_body_mib")


def _parse(text: str) -> httpx.URL:
    url = parse_http_url(text)
    if url.userinfo:
        raise InvalidUrl("url: it must not contain a user name or password")
    return url


def _target(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return _parse(str(url.join(location)))
    except (httpx.InvalidURL, ValueError) as exc:
        raise InvalidUrl("url: it is redirected to an invalid URL") from exc

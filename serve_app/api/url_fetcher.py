"""Fetch the images whose URLs clients send, with the guarded HTTP client and within limits."""

from __future__ import annotations

from collections import Counter

import httpx

from serve_app.errors import InvalidUrl, Overloaded, RateLimited, Unfetchable
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

_MAX_FETCHES = 16  # per Ingress replica; each fetch may use as much memory as a request body
_MAX_FETCHES_PER_KEY = 4  # so that slow URLs of one key do not block the fetches of other keys
_TIMEOUT_S = 5.0  # for each step, such as connecting; the request's deadline limits the total
_MAX_REDIRECTS = 3
_HEADERS = {"User-Agent": "sightline", "Accept": "image/*", "Accept-Encoding": "identity"}


class Fetcher:
    """An image fetcher. Its errors reveal neither the URL nor anything about the internal network."""

    def __init__(self, guard: AddressGuard, max_bytes: int) -> None:
        self._http = GuardedHttp(guard, timeout_s=_TIMEOUT_S)
        self._max_bytes = max_bytes
        self._in_flight: Counter[str] = Counter()  # by tenant

    async def fetch(self, url: str, tenant: str = "") -> bytes:
        """Return the bytes at the URL.

        ``tenant`` is the name of the request's API key, or empty if the server has no keys. Raise InvalidUrl,
        Unfetchable or TooLarge if the image cannot be fetched. Raise RateLimited at once if the key has too many
        fetches in flight. Raise Overloaded at once if all keys together have too many fetches in flight.
        """
        if tenant and self._in_flight[tenant] >= _MAX_FETCHES_PER_KEY:
            raise RateLimited(
                f"url_fetches_per_key: {_MAX_FETCHES_PER_KEY} images are being fetched for this API key, which is "
                "the limit; retry later or send the image itself",
                limit="url_fetches_per_key",
            )
        if self._in_flight.total() >= _MAX_FETCHES:
            raise Overloaded(
                f"url_fetches: {_MAX_FETCHES} images are being fetched, which is the limit; retry later or send "
                "the image itself",
                limit="url_fetches",
            )
        self._in_flight[tenant] += 1
        try:
            return await self._follow(_parse(url))
        # A host name that does not exist gets the same error as a forbidden address, so that clients cannot probe
        # which host names exist.
        except NoSuchHost as exc:
            raise InvalidUrl(NOT_ALLOWED) from exc
        except TooManySmallChunks as exc:
            raise Unfetchable("url: the server sends its response in pieces that are too small") from exc
        except NoAnswer as exc:
            raise Unfetchable("url: the server cannot be reached, or does not respond in time") from exc
        finally:
            self._in_flight[tenant] -= 1
            self._in_flight += Counter()  # removes tenants without fetches

    async def _follow(self, url: httpx.URL) -> bytes:
        for _ in range(1 + _MAX_REDIRECTS):
            async with self._http.stream("GET", url, _HEADERS) as reply:
                if reply.status not in REDIRECTS:
                    return await self._read(reply)
                url = _target(url, reply.header("location"))
        raise Unfetchable(f"url: it is redirected more than {_MAX_REDIRECTS} times; send the URL of the image itself")

    async def _read(self, reply: Reply) -> bytes:
        if reply.status != 200:
            raise Unfetchable(f"url: the server responds with status {reply.status} instead of 200")
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

"""Fetch the picture that a url names, by the guarded client and within limits."""

from __future__ import annotations

from collections import Counter

import httpx

from serve_app.errors import InvalidUrl, Overloaded, RateLimited, Unfetchable
from serve_app.network.address_guard import NOT_ALLOWED, AddressGuard
from serve_app.network.http import Dribbles, GuardedHttp, NoAnswer, NoSuchHost, Reply, parse_http_url

_FETCHES_AT_ONCE = 16  # of one Ingress: each may hold as many bytes as a body may have
_FETCHES_OF_A_KEY = 4  # of these, so that one key's slow servers do not keep others from fetching
_TIMEOUT_S = 5.0  # of each step; the request's deadline bounds them all
_MAX_REDIRECTS = 3
_REDIRECTS = {301, 302, 303, 307, 308}
_HEADERS = {"User-Agent": "sightline", "Accept": "image/*", "Accept-Encoding": "identity"}


class Fetcher:
    """Fetches pictures. What it raises names neither the url nor what lies behind its host."""

    def __init__(self, guard: AddressGuard, max_bytes: int) -> None:
        self._http = GuardedHttp(guard, timeout_s=_TIMEOUT_S)
        self._max_bytes = max_bytes
        self._in_flight: Counter[str] = Counter()  # by tenant

    async def fetch(self, url: str, tenant: str = "") -> bytes:
        """Return the answer's body. ``tenant`` is the name of the request's key, or empty where there are no keys.

        Raises InvalidUrl, Unfetchable, TooLarge; and at once RateLimited when the key's own fetches are the reason, or
        Overloaded when all keys' are.
        """
        if tenant and self._in_flight[tenant] >= _FETCHES_OF_A_KEY:
            raise RateLimited(
                f"url_fetches_per_key: {_FETCHES_OF_A_KEY} pictures are being fetched for this API key, which is the "
                "limit; retry later or send the picture itself",
                limit="url_fetches_per_key",
            )
        if self._in_flight.total() >= _FETCHES_AT_ONCE:
            raise Overloaded(
                f"url_fetches: {_FETCHES_AT_ONCE} pictures are being fetched, which is the limit; retry later or send "
                "the picture itself",
                limit="url_fetches",
            )
        self._in_flight[tenant] += 1
        try:
            return await self._follow(_parse(url))
        except NoSuchHost as exc:  # said as of an address that is not allowed: whether a name exists is not told
            raise InvalidUrl(NOT_ALLOWED) from exc
        except Dribbles as exc:
            raise Unfetchable("the url's server sends its answer in pieces that are too small") from exc
        except NoAnswer as exc:
            raise Unfetchable("the url's server cannot be reached, or does not answer in time") from exc
        finally:
            self._in_flight[tenant] -= 1
            self._in_flight += Counter()  # drops the tenants that have none

    async def _follow(self, url: httpx.URL) -> bytes:
        for _ in range(1 + _MAX_REDIRECTS):
            async with self._http.stream("GET", url, _HEADERS) as reply:
                if reply.status not in _REDIRECTS:
                    return await self._read(reply)
                url = _target(url, reply.header("location"))
        raise Unfetchable(f"the url is redirected more than {_MAX_REDIRECTS} times")

    async def _read(self, reply: Reply) -> bytes:
        if reply.status != 200:
            raise Unfetchable(f"the url's server answers {reply.status}")
        if reply.header("content-encoding") not in {"", "identity"}:
            raise Unfetchable("the url's server compresses its answer, which it was asked not to do")
        return await reply.read(self._max_bytes, "limits.max_body_mib")


def _parse(text: str) -> httpx.URL:
    url = parse_http_url(text)
    if url.userinfo:
        raise InvalidUrl("a picture's url holds no credentials")
    return url


def _target(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return _parse(str(url.join(location)))
    except (httpx.InvalidURL, ValueError) as exc:
        raise InvalidUrl("the url is redirected to what is no valid address") from exc

"""Fetch the images whose URLs clients send, within the limits of one Ingress replica."""

from __future__ import annotations

from collections import Counter

from serve_app.errors import Overloaded, RateLimited
from serve_app.network.address_guard import AddressGuard
from serve_app.network.fetching import PictureFetcher

_MAX_FETCHES = 16  # per Ingress replica; each fetch may use as much memory as a request body
_MAX_FETCHES_PER_KEY = 4  # so that slow URLs of one key do not block the fetches of other keys


class Fetcher:
    """An image fetcher for requests. Its errors reveal neither the URL nor anything about the internal network."""

    def __init__(self, guard: AddressGuard, max_bytes: int) -> None:
        self._pictures = PictureFetcher(guard, max_bytes)
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
            return await self._pictures.fetch(url)
        finally:
            self._in_flight[tenant] -= 1
            self._in_flight += Counter()  # removes tenants without fetches

"""Revocation, which ends an open response when its API key is removed, expires, is renamed or loses a permission."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.api.access.keys import Key, RoutePermission
from serve_app.api.access.reload import KeyReloader

_POLL_INTERVAL_S = 1.0


class Revocation:
    """A watcher for the API keys of open responses. It runs only while at least one response is open."""

    def __init__(self, keys: KeyReloader) -> None:
        self._keys = keys
        self._watched: dict[asyncio.Timeout, tuple[Key, RoutePermission]] = {}
        self._watching: asyncio.Task[None] | None = None

    @contextmanager
    def timeout(
        self, key: Key, permission: RoutePermission, within_s: float | None = None
    ) -> Iterator[asyncio.Timeout]:
        """Yield a timeout that expires as soon as the key loses the permission, its name or the permission admin.

        It also expires after ``within_s`` seconds, when the session ends.
        """
        until_revoked = asyncio.timeout(within_s)
        self._watched[until_revoked] = key, permission
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            yield until_revoked
        finally:
            del self._watched[until_revoked]

    async def _watch(self) -> None:
        while self._watched:
            await asyncio.sleep(_POLL_INTERVAL_S)
            await self._keys.refresh()
            valid = {key.sha256: key for key in self._keys.keys if not key.has_expired()}
            for until_revoked, (key, permission) in self._watched.items():
                current = valid.get(key.sha256)
                # The response was opened for this principal, which decides what the response may show.
                is_valid = current is not None and current.allows(permission) and current.principal == key.principal
                if not is_valid and not until_revoked.expired():
                    until_revoked.reschedule(asyncio.get_running_loop().time())

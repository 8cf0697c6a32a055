"""The Redis Streams sink, which adds one entry per event."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, ConnectionError, RedisError, TimeoutError

from serve_app.errors import InvalidParameter, InvalidUrl
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import RedisSink
from serve_app.sinks.outlet import (
    TIMEOUT_S,
    DeliveryFailed,
    DeliveryRefused,
    fill_template,
    parse_url,
    server_address,
)
from serve_app.types import Event


class RedisOutlet:
    """Adds entries with the single field ``event``.

    Each batch is one transaction, so a lost connection never leaves only a part of the batch in Redis.
    """

    max_batch = 100

    def __init__(self, spec: RedisSink, guard: AddressGuard) -> None:
        """Check the settings. Raise InvalidParameter if the URL is malformed."""
        parts = parse_url(spec.url)
        database = parts.path.strip("/") or "0"
        if not database.isdecimal() or parts.query or parts.fragment:
            raise InvalidParameter("sinks: url of type redis must be redis://user:password@host:port/database-number")
        self.target = f"{server_address(parts)}/{database}"
        self._key = spec.key
        self._max_length = spec.max_length
        self._redis = Redis.from_pool(
            ConnectionPool(
                connection_class=_GuardedTls if parts.scheme == "rediss" else _Guarded,
                guard=guard,
                host=parts.hostname or "",
                port=parts.port or 6379,
                db=int(database),
                username=unquote(parts.username) if parts.username else None,
                password=unquote(parts.password) if parts.password else None,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),  # the sink retries
            )
        )

    async def send(self, events: list[Event]) -> None:
        """Add the events in one transaction."""
        try:
            async with self._redis.pipeline(transaction=True) as transaction:
                for event in events:
                    key = fill_template(self._key, event.subject_id, event.type)
                    transaction.xadd(key, {"event": event.json}, maxlen=self._max_length, approximate=True)
                results = await transaction.execute(raise_on_error=False)
        except (RedisError, OSError) as exc:  # nothing was added, or the connection broke after the commit
            if isinstance(exc.__cause__, InvalidUrl):
                raise DeliveryRefused(exc.__cause__.detail) from exc
            raise DeliveryFailed(_reason(exc)) from exc
        for result in results:
            if isinstance(result, RedisError):  # a retry would add the other entries twice
                raise DeliveryRefused(_reason(result))

    async def close(self) -> None:
        """Close the connections to the server."""
        await self._redis.aclose()


class _Guarded(Connection):
    """A connection that uses only addresses that the guard allows."""

    _address: str

    def __init__(self, *, guard: AddressGuard, **options: Any) -> None:
        super().__init__(**options)
        self._guard = guard

    async def _connect(self) -> None:
        """Connect to the first of the host's addresses that accepts a connection."""
        async with asyncio.timeout(TIMEOUT_S):
            addresses = await self._guard.resolve(self.host, self.port)
            for self._address in addresses:
                try:
                    await super()._connect()  # type: ignore[no-untyped-call]
                    return
                except OSError:
                    if self._address == addresses[-1]:
                        raise

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "host": self._address}


class _GuardedTls(_Guarded, SSLConnection):
    """A guarded TLS connection. It verifies the certificate for the host's name, not for the IP address."""

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "server_hostname": self.host}


def _reason(exc: Exception) -> str:
    """Return the reason for a failure.

    Quote only the error code of a server's reply, because a reply to AUTH may contain the password.
    """
    if isinstance(exc, (AuthenticationError, AuthorizationError)):  # tested before their base class ConnectionError
        return "the server refused the credentials; check the url's user and password"
    if isinstance(exc, (ConnectionError, TimeoutError, OSError)):
        return f"the server cannot be reached: {exc}"
    code = str(exc).partition(" ")[0]
    return f"the server answered {code if code.isupper() else type(exc).__name__}"

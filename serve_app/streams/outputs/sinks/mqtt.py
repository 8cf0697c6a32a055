"""MQTT: a message an event."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any
from urllib.parse import unquote

from aiomqtt import Client, MqttError

from serve_app.errors import InvalidParameter, InvalidUrl
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import MqttSink
from serve_app.streams.outputs.sinks.outlet import (
    TIMEOUT_S,
    DeliveryFailed,
    DeliveryRefused,
    address,
    filled,
    parse_url,
)
from serve_app.types import Event


class MqttOutlet:
    """Publishes through one connection, a new one after that was lost.

    With a QoS of 1 a message was sent when the broker has confirmed it; with 0, when the connection took it.
    """

    max_batch = 100

    def __init__(self, spec: MqttSink, guard: AddressGuard) -> None:
        """Raises InvalidParameter for a malformed url or topic."""
        self._parts = parse_url(spec.url)
        if self._parts.path.strip("/") or self._parts.query or self._parts.fragment:
            raise InvalidParameter("an MQTT url is mqtt://user:password@host:port, without a path")
        if any(character in spec.topic for character in "+#\0"):
            raise InvalidParameter("the topic of an MQTT message holds no + and no #")
        self.target = address(self._parts)
        self._topic = spec.topic
        self._qos = spec.qos
        self._guard = guard
        self._failures = 0  # each is a reason to try the host's next address
        self._connection: _Connection | None = None

    async def send(self, events: list[Event]) -> None:
        """All at once; they leave in their order."""
        if self._connection is None:
            self._connection = _Connection(self._client(await self._address()))
        messages = [(filled(self._topic, event.stream_id, event.type), event.json) for event in events]
        try:
            await self._connection.publish(messages, self._qos)
            return
        except MqttError as exc:
            reason = f"it cannot be reached: {exc.__cause__ or exc}"
            self._failures += 1
        await self.close()
        raise DeliveryFailed(reason)  # not from the error, which holds the socket that it happened to

    async def close(self) -> None:
        """The connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    @property
    def _port(self) -> int:
        return self._parts.port or (8883 if self._parts.scheme == "mqtts" else 1883)

    async def _address(self) -> str:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                addresses = await self._guard.resolve(self._parts.hostname or "", self._port)
        except InvalidUrl as exc:
            raise DeliveryRefused(exc.detail) from exc
        except (socket.gaierror, TimeoutError) as exc:
            raise DeliveryFailed(f"it cannot be reached: {exc or 'no address within 5 s'}") from exc
        return addresses[self._failures % len(addresses)]

    def _client(self, address: str) -> Client:
        parts = self._parts
        client = Client(
            address,
            self._port,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            timeout=TIMEOUT_S,
            keepalive=int(TIMEOUT_S),
            tls_context=_TlsFor(parts.hostname or "") if parts.scheme == "mqtts" else None,
        )
        client.pending_calls_threshold = self.max_batch  # more are worth a warning
        return client


class _TlsFor(ssl.SSLContext):
    """TLS with ``name``, at whichever address; by the system's authorities."""

    name: str

    def __new__(cls, name: str) -> _TlsFor:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.name = name
        context.load_default_certs()
        return context

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        """See ``ssl.SSLContext``."""
        return super().wrap_socket(sock, *args, **options | {"server_hostname": self.name})


class _Connection:
    """A connection to a broker, for as long as it lasts."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Future[None] = asyncio.create_task(self._hold(), name="mqtt connection")

    async def publish(self, messages: list[tuple[str, str]], qos: int) -> None:
        """Raises MqttError."""
        await self._or_lost(self._opened)
        attempts = (self._client.publish(topic, text, qos) for topic, text in messages)
        publishing = asyncio.gather(*attempts, return_exceptions=True)
        try:
            await self._or_lost(publishing)
        finally:
            publishing.cancel()
        for failure in filter(None, publishing.result()):
            raise failure

    async def close(self) -> None:
        """Says goodbye. An attempt to connect is waited for: cancelled, it would leave its socket open."""
        await asyncio.wait({self._opened, self._task}, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        del self._task  # its error knows us and the socket: that would stay open until the garbage is collected

    async def _or_lost(self, result: asyncio.Future[Any]) -> None:
        """Until it is there. Raises MqttError, also when the connection is lost before."""
        await asyncio.wait({result, self._task}, return_when=asyncio.FIRST_COMPLETED)
        await (self._task if self._task.done() else result)

    async def _hold(self) -> None:
        """Connects, and ends with an MqttError when the connection is lost: nobody writes to us."""
        async with self._client as client:
            self._opened.set_result(None)
            async for _ in client.messages:
                pass

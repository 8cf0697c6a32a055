"""The MQTT sink, which publishes one message per event."""

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
from serve_app.sinks.outlet import (
    TIMEOUT_S,
    DeliveryFailed,
    DeliveryRefused,
    fill_template,
    parse_url,
    server_address,
)
from serve_app.types import Event


class MqttOutlet:
    """Publishes events through one connection, and reconnects if the connection is lost.

    With QoS 1, a message counts as sent once the broker has confirmed it. With QoS 0, it counts as sent once it was
    written to the connection.
    """

    max_batch = 100

    def __init__(self, spec: MqttSink, guard: AddressGuard) -> None:
        """Check the settings. Raise InvalidParameter if the URL or the topic is malformed."""
        self._parts = parse_url(spec.url)
        if self._parts.path.strip("/") or self._parts.query or self._parts.fragment:
            raise InvalidParameter("sinks: url of type mqtt must be mqtt://user:password@host:port, without a path")
        if any(character in spec.topic for character in "+#\0"):
            raise InvalidParameter("sinks: topic must not contain + or #")
        self.target = server_address(self._parts)
        self._topic = spec.topic
        self._qos = spec.qos
        self._guard = guard
        self._failures = 0  # after each failure, we try the host's next address
        self._connection: _Connection | None = None

    async def send(self, events: list[Event]) -> None:
        """Publish the events in order, without waiting for each confirmation."""
        if self._connection is None:
            self._connection = _Connection(self._client(await self._address()))
        messages = [(fill_template(self._topic, event.subject_id, event.type), event.json) for event in events]
        try:
            await self._connection.publish(messages, self._qos)
            return
        except MqttError as exc:
            reason = f"the broker cannot be reached: {exc.__cause__ or exc}"
            self._failures += 1
        await self.close()
        raise DeliveryFailed(reason)  # without ``from exc``, because a reference to ``exc`` keeps its socket open

    async def close(self) -> None:
        """Close the connection to the broker."""
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
            raise DeliveryFailed(f"the broker cannot be reached: {exc or 'no address within 5 s'}") from exc
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
        client.pending_calls_threshold = self.max_batch  # so that aiomqtt does not warn about a full batch
        return client


class _TlsFor(ssl.SSLContext):
    """A TLS context that verifies the server's certificate for the host ``name``.

    aiomqtt would verify it for the IP address that we pass as the host. The context trusts the system's certificate
    authorities.
    """

    name: str

    def __new__(cls, name: str) -> _TlsFor:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.name = name
        context.load_default_certs()
        return context

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Wrap a socket as ``ssl.SSLContext`` does, with ``name`` as the server's host name."""
        return super().wrap_socket(sock, *args, **options | {"server_hostname": self.name})


class _Connection:
    """One connection to a broker. It connects at once, and does not reconnect."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Future[None] = asyncio.create_task(self._run(), name="mqtt connection")

    async def publish(self, messages: list[tuple[str, str]], qos: int) -> None:
        """Publish the messages. Raise MqttError if publishing fails or the connection is lost."""
        await self._wait_unless_lost(self._opened)
        attempts = (self._client.publish(topic, text, qos) for topic, text in messages)
        publishing = asyncio.gather(*attempts, return_exceptions=True)
        try:
            await self._wait_unless_lost(publishing)
        finally:
            publishing.cancel()
        for failure in filter(None, publishing.result()):
            raise failure

    async def close(self) -> None:
        """Disconnect.

        First wait for a connection attempt that is in progress, because cancelling it would leave its socket open.
        """
        await asyncio.wait({self._opened, self._task}, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        del self._task  # otherwise, a reference cycle through the task's error would keep the socket open

    async def _wait_unless_lost(self, result: asyncio.Future[Any]) -> None:
        """Wait for ``result``, and raise its error if it has one. Raise MqttError if the connection is lost first."""
        await asyncio.wait({result, self._task}, return_when=asyncio.FIRST_COMPLETED)
        await (self._task if self._task.done() else result)

    async def _run(self) -> None:
        """Connect, and stay connected until this task is cancelled. Raise MqttError if the connection is lost."""
        async with self._client as client:
            self._opened.set_result(None)
            async for _ in client.messages:
                pass

"""Connections to MQTT brokers, for the sink and for the messages that a broker retains."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiomqtt import Client, MqttError, Will

from serve_app.errors import InvalidParameter, InvalidUrl
from serve_app.network.address_guard import AddressGuard
from serve_app.sinks.outlet import TIMEOUT_S, DeliveryFailed, DeliveryRefused, parse_url, server_address

MAX_BATCH = 100  # messages that may wait for the broker's confirmation
_MAX_RECEIVED = 10_000  # messages that wait to be handled

Receiver = Callable[[str, bytes, bool], None]  # its arguments are the topic, the payload, and whether it was retained


@dataclass(frozen=True)
class Message:
    """A message to a broker. With QoS 1, it counts as sent once the broker has confirmed it."""

    topic: str
    payload: str | bytes
    qos: int = 1
    is_retained: bool = False


class Broker:
    """The address and the credentials of a broker."""

    def __init__(self, url: str, guard: AddressGuard, *, name: str) -> None:
        """Check the URL. Raise InvalidParameter with the setting's ``name`` if the URL is malformed."""
        self._parts = parse_url(url, name)
        if self._parts.scheme not in {"mqtt", "mqtts"} or (
            self._parts.path.strip("/") or self._parts.query or self._parts.fragment
        ):
            raise InvalidParameter(f"{name} must be mqtt://user:password@host:port, without a path")
        self.address = server_address(self._parts)  # without credentials
        self._guard = guard
        self._failures = 0  # after each failure, we try the host's next address

    async def connect(
        self,
        *,
        identifier: str | None = None,
        will: Message | None = None,
        received: Receiver | None = None,
        keep_alive_s: int = int(TIMEOUT_S),
    ) -> BrokerConnection:
        """Return a connection that is being opened.

        When the connection is lost, the broker publishes ``will``. A connection counts as lost if the broker receives
        nothing for 1.5 times ``keep_alive_s``. ``received`` is called with each message of a subscription. Raise
        DeliveryFailed if the host has no address, and DeliveryRefused if the guard does not allow it.
        """
        client = self._client(await self._resolve(), identifier, will, keep_alive_s)
        return BrokerConnection(client, received)

    def failure(self, exc: MqttError) -> str:
        """Return the reason of a failure. The next connection is made to the host's next address."""
        self._failures += 1
        return f"the broker cannot be reached: {exc.__cause__ or exc}"

    @property
    def _port(self) -> int:
        return self._parts.port or (8883 if self._parts.scheme == "mqtts" else 1883)

    async def _resolve(self) -> str:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                addresses = await self._guard.resolve(self._parts.hostname or "", self._port)
        except InvalidUrl as exc:
            raise DeliveryRefused(exc.detail) from exc
        except (socket.gaierror, TimeoutError) as exc:
            raise DeliveryFailed(f"the broker cannot be reached: {exc or 'no address within 5 s'}") from exc
        return addresses[self._failures % len(addresses)]

    def _client(self, address: str, identifier: str | None, will: Message | None, keep_alive_s: int) -> Client:
        parts = self._parts
        client = Client(
            address,
            self._port,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            identifier=identifier,
            will=Will(will.topic, will.payload, will.qos, will.is_retained) if will else None,
            timeout=TIMEOUT_S,
            keepalive=keep_alive_s,
            max_queued_incoming_messages=_MAX_RECEIVED,
            tls_context=_TlsFor(parts.hostname or "") if parts.scheme == "mqtts" else None,
        )
        client.pending_calls_threshold = MAX_BATCH  # so that aiomqtt does not warn about a full batch
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


class BrokerConnection:
    """One connection to a broker. It connects at once, and does not reconnect.

    Every method but ``close`` raises MqttError if it fails or the connection is lost.
    """

    def __init__(self, client: Client, received: Receiver | None) -> None:
        self._client = client
        self._received = received
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Future[None] = asyncio.create_task(self._run(), name="mqtt connection")

    async def opened(self) -> None:
        """Wait until the connection is open."""
        await self._wait_unless_lost(self._opened)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish up to ``MAX_BATCH`` messages in order, without waiting for each confirmation."""
        await self.opened()
        await self._call(
            *(
                self._client.publish(message.topic, message.payload, message.qos, message.is_retained)
                for message in messages
            )
        )

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe to the topics. A topic that the broker does not allow is ignored."""
        await self.opened()
        await self._call(self._client.subscribe([(topic, 1) for topic in topics]))

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """End the subscriptions to the topics."""
        await self._call(self._client.unsubscribe(list(topics)))

    async def wait(self, event: asyncio.Event, within_s: float | None) -> None:
        """Wait until the event is set, or ``within_s`` seconds have passed. None means no limit."""
        waiting: asyncio.Future[Any] = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED, timeout=within_s)
            if self._task.done():
                await self._task
        finally:
            waiting.cancel()

    async def close(self) -> None:
        """Disconnect.

        First wait for a connection attempt that is in progress, because cancelling it would leave its socket open.
        """
        await asyncio.wait({self._opened, self._task}, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        del self._task  # otherwise, a reference cycle through the task's error would keep the socket open

    async def _call(self, *calls: Coroutine[Any, Any, Any]) -> None:
        calling = asyncio.gather(*calls, return_exceptions=True)
        try:
            await self._wait_unless_lost(calling)
        finally:
            calling.cancel()
        for result in calling.result():
            if isinstance(result, BaseException):
                raise result

    async def _wait_unless_lost(self, result: asyncio.Future[Any]) -> None:
        """Wait for ``result``, and raise its error if it has one. Raise MqttError if the connection is lost first."""
        await asyncio.wait({result, self._task}, return_when=asyncio.FIRST_COMPLETED)
        await (self._task if self._task.done() else result)

    async def _run(self) -> None:
        """Connect, and stay connected until this task is cancelled. Raise MqttError if the connection is lost."""
        async with self._client as client:
            self._opened.set_result(None)
            async for message in client.messages:
                if self._received is not None:
                    self._received(str(message.topic), message.payload, message.retain)

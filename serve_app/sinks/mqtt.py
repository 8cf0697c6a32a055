"""The MQTT sink, which publishes one message per event."""

from __future__ import annotations

from aiomqtt import MqttError

from serve_app.errors import InvalidParameter
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import MqttSink
from serve_app.sinks.mqtt_connection import MAX_BATCH, Broker, BrokerConnection, Message
from serve_app.sinks.outlet import DeliveryFailed, fill_template
from serve_app.types import Event


class MqttOutlet:
    """Publishes events through one connection, and reconnects if the connection is lost.

    With QoS 1, a message counts as sent once the broker has confirmed it. With QoS 0, it counts as sent once it was
    written to the connection.
    """

    max_batch = MAX_BATCH

    def __init__(self, spec: MqttSink, guard: AddressGuard) -> None:
        """Check the settings. Raise InvalidParameter if the URL or the topic is malformed."""
        self._broker = Broker(spec.url, guard, name="sinks: url of type mqtt")
        if any(character in spec.topic for character in "+#\0"):
            raise InvalidParameter("sinks: topic must not contain + or #")
        self.target = self._broker.address
        self._topic = spec.topic
        self._qos = spec.qos
        self._connection: BrokerConnection | None = None

    async def send(self, events: list[Event]) -> None:
        """Publish the events in order, without waiting for each confirmation."""
        if self._connection is None:
            self._connection = await self._broker.connect()
        messages = [
            Message(fill_template(self._topic, event.subject_id, event.type), event.json, self._qos) for event in events
        ]
        try:
            await self._connection.publish(messages)
            return
        except MqttError as exc:
            reason = self._broker.failure(exc)
        await self.close()
        raise DeliveryFailed(reason)  # without ``from exc``, because a reference to ``exc`` keeps its socket open

    async def close(self) -> None:
        """Close the connection to the broker."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

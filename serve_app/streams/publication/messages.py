"""The topics of streams at a broker, and the message about a stream's state."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from serve_app.schemas.streams import StreamStatus
from serve_app.types import Json

# These fields change with nearly every frame of a stream.
_FIGURES = frozenset(
    {
        "uptime_s",
        "captured",
        "processed",
        "dropped",
        "camera_fps",
        "processed_fps",
        "dropped_fps",
        "sinks",
        "recording",
        "counted_at_s",
    }
)


@dataclass(frozen=True)
class Topics:
    """The topics that begin with ``prefix``, which is the setting ``mqtt.topic``."""

    prefix: str

    @property
    def status(self) -> str:
        """The topic that says whether the server is running."""
        return f"{self.prefix}/status"

    @property
    def every_stream(self) -> str:
        """The topic filter that matches the topics of every stream."""
        return f"{self.prefix}/streams/+/+"

    def state(self, stream_id: str) -> str:
        """Return the topic of a stream's state."""
        return f"{self.prefix}/streams/{stream_id}/state"

    def picture(self, stream_id: str) -> str:
        """Return the topic of a stream's last picture."""
        return f"{self.prefix}/streams/{stream_id}/image"

    def contains(self, topic: str) -> bool:
        """Return whether a topic is a stream's."""
        return re.fullmatch(rf"{re.escape(self.prefix)}/streams/[^/]+/(state|image)", topic) is not None


def state_of(status: StreamStatus) -> Json:
    """Return the message about a stream: its status, and in place of the latest result the counts of its classes.

    Fields of the status that change all the time, and would be of no use in a message, are left out.
    """
    message = status.model_dump(mode="json", exclude={"latest"})
    for zone in message["zones"].values():
        del zone["dwell_s"]
    found = status.latest.detections if status.latest else []
    return message | {
        "count": len(found),
        "counts": dict(sorted(Counter(detection.label for detection in found).items())),
        "counted_at_s": status.latest.captured_at_s if status.latest else None,
    }


def significant(message: Json) -> Json:
    """Return the part of a message that is worth a message of its own when it changes."""
    return {key: value for key, value in message.items() if key not in _FIGURES}

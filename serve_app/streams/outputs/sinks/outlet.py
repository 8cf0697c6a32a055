"""What a sink's events leave through: what every kind promises, and what they share."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from serve_app.errors import InvalidParameter
from serve_app.types import Event

TIMEOUT_S = 5.0  # of each step over a network


class DeliveryFailed(Exception):
    """It did not work, and may work later. The text says why, without credentials."""


class DeliveryRefused(Exception):
    """It will not work, however often it is tried. The text says why, without credentials."""


class Outlet(Protocol):
    """One kind of receiver."""

    target: str  # who it is, without credentials
    max_batch: int  # events in a call of ``send``

    async def send(self, events: list[Event]) -> None:
        """Hand the events over, in order.

        Raises DeliveryFailed, after which the very same list is sent again, or DeliveryRefused.
        """

    async def close(self) -> None:
        """Leaves nothing open. Takes no longer than a step over a network may, and may be called twice."""


def filled(template: str, stream_id: str, event_type: str) -> str:
    """The template with its two placeholders replaced. Any other brace is itself."""
    return template.replace("{stream_id}", stream_id).replace("{type}", event_type)


def parse_url(url: str) -> SplitResult:
    """Raises InvalidParameter for what names no server."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        is_valid = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
        is_valid = is_valid and "@" not in parts.path + parts.query + parts.fragment  # what is before it is a password
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidParameter(
            "a sink's url is no valid address; / ? # and @ in a password, and @ in a path, are %2F %3F %23 and %40"
        )
    return parts


def address(parts: SplitResult) -> str:
    """The server's address, without what may be secret: credentials, path and query."""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}"

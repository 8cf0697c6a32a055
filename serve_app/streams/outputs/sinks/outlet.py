"""The outlets through which sinks send their events: their interface, and the helpers they share."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from serve_app.errors import InvalidParameter
from serve_app.types import Event

TIMEOUT_S = 5.0  # for each network operation


class DeliveryFailed(Exception):
    """A delivery failed, and a retry may succeed. The text says why, without credentials."""


class DeliveryRefused(Exception):
    """A delivery failed, and a retry cannot succeed. The text says why, without credentials."""


class Outlet(Protocol):
    """One kind of receiver for events."""

    target: str  # the receiver's public name or address, without credentials
    max_batch: int  # the most events in one call of ``send``

    async def send(self, events: list[Event]) -> None:
        """Send the events, in order.

        Raise DeliveryFailed if a retry may succeed (the sink then sends the same list again), and DeliveryRefused if it
        cannot.
        """

    async def close(self) -> None:
        """Close everything, within ``TIMEOUT_S``. This may be called twice."""


def fill_template(template: str, stream_id: str, event_type: str) -> str:
    """Replace ``{stream_id}`` and ``{type}`` in a template. All other braces stay as they are."""
    return template.replace("{stream_id}", stream_id).replace("{type}", event_type)


def parse_url(url: str) -> SplitResult:
    """Parse a sink's URL. Raise InvalidParameter if it does not name a server."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        is_valid = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
        is_valid = is_valid and "@" not in parts.path + parts.query + parts.fragment  # part of a password
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidParameter(
            "sinks: url is not valid; write / ? # and @ in a password, and @ in a path, as %2F %3F %23 and %40"
        )
    return parts


def server_address(parts: SplitResult) -> str:
    """Return a server's URL without the parts that may be secret: credentials, path and query."""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}"

"""The interface of outlets, and the functions that outlets share. Sinks send their events through outlets."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from serve_app.errors import InvalidParameter
from serve_app.types import Event

TIMEOUT_S = 5.0  # for each network operation


class DeliveryFailed(Exception):
    """Sending failed, but a retry may succeed. The message gives the reason and contains no credentials."""


class DeliveryRefused(Exception):
    """Sending failed, and a retry cannot succeed. The message gives the reason and contains no credentials."""


class Outlet(Protocol):
    """Sends events to one receiver, such as a webhook or a file."""

    target: str  # the receiver's public name or address, without credentials
    max_batch: int  # the maximum number of events in one call of ``send``

    async def send(self, events: list[Event]) -> None:
        """Send the events, in order.

        Raise DeliveryFailed if a retry may succeed. The sink then sends the same list again. Raise DeliveryRefused if a
        retry cannot succeed.
        """

    async def close(self) -> None:
        """Close all connections within ``TIMEOUT_S`` seconds. This method may be called twice."""


def fill_template(template: str, stream_id: str, event_type: str) -> str:
    """Replace ``{stream_id}`` and ``{type}`` in a template. All other braces stay as they are."""
    return template.replace("{stream_id}", stream_id).replace("{type}", event_type)


def parse_url(url: str, name: str = "sinks: url") -> SplitResult:
    """Parse the URL of a sink or a broker. Raise InvalidParameter with the setting's ``name`` if it is not valid."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        is_valid = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
        # An @ after the host means that a password contains characters that must be escaped.
        is_valid = is_valid and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidParameter(
            f"{name} is not valid; in a password, write / ? # and @ as %2F %3F %23 and %40, and in a path @ as %40"
        )
    return parts


def server_address(parts: SplitResult) -> str:
    """Return a server's URL without its credentials, path and query, because these may be secret."""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}"

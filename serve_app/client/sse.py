"""A parser that turns the bytes of a response into Server-Sent Events messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """One message. A message without data is a keep-alive, but it may have an id."""

    id: str | None
    event: str
    data: str


class SseParser:
    """A parser that takes the bytes of one response as they arrive. It never returns an incomplete message."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that end in these bytes."""
        # We split bytes, because str.splitlines, which httpx uses, also splits at U+2028, and JSON may contain that
        # character.
        text = (self._rest + data).replace(b"\r\n", b"\n")
        *blocks, self._rest = text.split(b"\n\n")
        return [_parse(block.decode()) for block in blocks]


def _parse(block: str) -> Message:
    fields: dict[str, list[str]] = {}
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))
    return Message(
        id=fields["id"][-1] if "id" in fields else None,
        event=fields.get("event", ["message"])[-1],
        data="\n".join(fields.get("data", [])),
    )

"""Parse Server-Sent Events whose bytes arrive in pieces."""

from __future__ import annotations

import pytest

from serve_app.client.sse import Message, SseParser

STREAM = (
    ': nothing new\nid: 6\n\nid: 7\nevent: zone\ndata: {"zone":"caf\u00e9 \u2028 x"}\n\n'
    'event: missed\r\ndata: {"missed":3}\r\n\r\ndata: a\ndata:b\n\n'
).encode()
MESSAGES = [
    Message("6", "message", ""),
    Message("7", "zone", '{"zone":"caf\u00e9 \u2028 x"}'),
    Message(None, "missed", '{"missed":3}'),
    Message(None, "message", "a\nb"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_are_complete_for_any_size_of_pieces(size: int) -> None:
    parser = SseParser()
    found = []
    for start in range(0, len(STREAM), size):
        found += parser.feed(STREAM[start : start + size])
    assert found == MESSAGES


def test_an_incomplete_message_is_not_returned() -> None:
    assert SseParser().feed(STREAM[:-1]) == MESSAGES[:-1]

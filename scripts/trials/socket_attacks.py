"""Random WebSocket handshakes, which are often invalid, and malformed or hostile messages after them."""

from __future__ import annotations

import json
import random
import struct

from scripts.trials.wire import request

_KEYS = ("dGhlIHNhbXBsZSBub25jZQ==",) * 3 + ("short", "", "\xff")
_EXTRAS: tuple[list[tuple[str, str]], ...] = (
    [],
    [("Sec-WebSocket-Extensions", "permessage-deflate; x=" + "9" * 100)],
    [("Sec-WebSocket-Protocol", ",,")],
)
_FRAMES = (
    b"", b"\x81\x05hello", b"\x81\xff" + struct.pack(">Q", 2**63 - 1),
    b"\x81\xff" + struct.pack(">Q", 2**40) + bytes(1000), b"\x89\xfe\xff\xff" + bytes(1000),
    b"\x88" + bytes([0x80 | 2]) + bytes(4) + b"\xff\xff", b"\xff" * 100, b"\xc1\x85" + bytes(9),
    b"\x01\x80" + bytes(4), b"\x01\xfd" + bytes(4 + 125), (b"\x89\x80" + bytes(4)) * 2000,
    b"\x81\x84" + bytes(4) + b"\xff\xfe\xfd\xfc", b"\x83\x80" + bytes(4), (b"\x01\x81" + bytes(4) + b"a") * 5000,
)  # fmt: skip


def socket_attack(rng: random.Random, stream_id: str) -> tuple[bytes, bytes]:
    """Return a handshake, and what follows it. Half of the valid handshakes ask for the previews of all streams."""
    events = f"/streams/{stream_id}/events"
    path = rng.choice((events, events, "/streams/none/events", "/detect", "/health", *("/streams/previews",) * 4))
    path += rng.choice(("", "", "?types=nothing", "?after=-1", "?after=0", "?types=" + "a" * 3000))
    headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", rng.choice(_KEYS)),
        ("Sec-WebSocket-Version", rng.choice(("13", "13", "13", "8", "x"))),
        *rng.choice(_EXTRAS),
    ]
    messages = _watches(rng, stream_id) if path.startswith("/streams/previews") and rng.random() < 0.7 else b""
    return request("GET", path, headers), messages + rng.choice(_FRAMES)


def _watches(rng: random.Random, stream_id: str) -> bytes:
    """Return messages that ask for previews, with valid and with invalid values."""
    names: tuple[object, ...] = ([stream_id], [stream_id], ["none"], [stream_id] * 65, ["../x"], ["\0"], "x", None, [7])
    rates: tuple[object, ...] = (5, 5, 0.1, 0, -1, 1e308, float("nan"), "5", None, [])
    watch = {"streams": rng.choice(names), "max_fps": rng.choice(rates), "boxes": rng.choice((True, False, 2, "no"))}
    texts = (*(json.dumps(watch).encode(),) * 6, b"[" * 20_000, b"{}", b"\xff\xfe", b'{"streams":["' + b"a" * 16_000)
    return b"".join(_text(rng.choice(texts)) for _ in range(rng.choice((1, 1, 2, 200))))


def _text(data: bytes) -> bytes:
    """Return one complete text message of a client. Its mask is zero, so the data is sent as it is."""
    length = len(data)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack(">H", length)
    return b"\x81" + size + bytes(4) + data

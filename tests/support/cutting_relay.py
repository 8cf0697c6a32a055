"""A TCP relay that closes each connection at a chosen point of the response."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class CuttingRelay:
    """The port of a running relay, and the number of connections that the relay has accepted."""

    port: int
    connections: int = 0


@contextmanager
def cutting_relay(target: int, cuts: Iterable[int | bytes]) -> Iterator[CuttingRelay]:
    """Run a relay to the port ``target`` of this machine. The relay forwards one connection at a time.

    Each connection uses the next item of ``cuts``. If the item is a number, the relay closes the connection after that
    many bytes of the response. If the item is bytes, the relay closes the connection when it has forwarded these bytes.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = CuttingRelay(listener.getsockname()[1])
        thread = threading.Thread(target=_listen, args=(listener, target, relay, iter(cuts)))
        thread.start()
        try:
            yield relay
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)


def _listen(listener: socket.socket, target: int, relay: CuttingRelay, cuts: Iterator[int | bytes]) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            relay.connections += 1
            cut = next(cuts)
            with near, socket.create_connection(("127.0.0.1", target)) as far, suppress(OSError):
                far.sendall(near.recv(1 << 16))
                answer = b""
                while not _is_over(answer, cut) and (data := far.recv(1)):
                    near.sendall(data)
                    answer += data


def _is_over(answer: bytes, cut: int | bytes) -> bool:
    return answer.endswith(cut) if isinstance(cut, bytes) else len(answer) >= cut

"""Forbidden ports that detect connections, and a fake name resolver."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Trap:
    """A TCP and UDP listener that counts connections. It needs no thread, because the kernel queues connections."""

    def __init__(self, host: str, port: int) -> None:
        self._tcp = socket.create_server((host, port))
        self.host, self.port = self._tcp.getsockname()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((host, self.port))
        self._tcp.setblocking(False)
        self._udp.setblocking(False)

    def caught(self) -> int:
        """Return the number of connections and datagrams that arrived since the last call."""
        count = 0
        for receive in (lambda: self._tcp.accept()[0].close(), lambda: self._udp.recv(1)):
            try:
                while True:
                    receive()
                    count += 1
            except BlockingIOError:
                pass
        return count

    def close(self) -> None:
        self._tcp.close()
        self._udp.close()


@contextmanager
def trap(host: str = "127.0.0.1", port: int = 0) -> Iterator[Trap]:
    """Open a trap, and check at the end that nothing has connected to it."""
    opened = Trap(host, port)
    try:
        yield opened
        assert opened.caught() == 0, f"a connection was made to {host}:{opened.port}"
    finally:
        opened.close()


class Names:
    """A replacement for ``socket.getaddrinfo`` that never asks a name server.

    Numeric addresses and ``localhost`` are resolved as usual. A name in ``known`` has a list of answers, which are
    returned in order, and the last answer is then repeated. All other names do not exist.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in self.known:
            digits_only = 0 if name == "localhost" else socket.AI_NUMERICHOST
            return self._real(host, port, family, type, proto, flags | digits_only)
        self.asked.append(name)
        answers = self.known[name]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [entry for address in addresses for entry in self._real(address, port, family, type, proto, flags)]

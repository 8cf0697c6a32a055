"""Ports that nobody may connect to, and names that stand for what a test says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Trap:
    """Listens, by TCP and UDP. Whoever connects is in the kernel's queue from then on: nothing has to be waited for."""

    def __init__(self, host: str, port: int) -> None:
        self._tcp = socket.create_server((host, port))
        self.host, self.port = self._tcp.getsockname()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((host, self.port))
        self._tcp.setblocking(False)
        self._udp.setblocking(False)

    def caught(self) -> int:
        """Connections and datagrams since it was last asked."""
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
    """Set, and empty at the end."""
    it = Trap(host, port)
    try:
        yield it
        assert it.caught() == 0, f"somebody connected to {host}"
    finally:
        it.close()


class Names:
    """What ``socket.getaddrinfo`` answers: addresses in digits and ``localhost`` as ever, ``known`` names one answer
    after the other, the last one for good, and no other names. No test asks the network's resolver."""

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

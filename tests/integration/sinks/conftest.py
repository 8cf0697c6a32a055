"""Fixtures for tests of sinks, which send to real servers."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from scripts.launch import free_port
from serve_app.network.address_guard import AddressGuard
from serve_app.sinks import Sink
from tests.integration.conftest import eventually
from tests.support.receiver import Receiver
from tests.support.sinks import event, new_sink, until

HERE = AddressGuard((ip_network("127.0.0.0/8"),))
QUEUE_SIZE = 1000
# Debian installs mosquitto in /usr/sbin, which is usually not in a user's PATH.
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def connections() -> set[tuple[Any, ...]]:
    """Return the TCP connections of this process."""
    return {(each.laddr, each.raddr) for each in psutil.Process().net_connections("tcp") if each.raddr}


@pytest.fixture(autouse=True)
async def nothing_left(anyio_backend: str) -> AsyncIterator[None]:
    """Check that a test leaves no task, thread or connection, except the threads of the event loop and the resolver."""
    threads, sockets = set(threading.enumerate()), connections()
    # An error's traceback can keep a connection open. Garbage collection would close it and so hide the leak.
    gc.disable()
    yield

    def name(task: asyncio.Task[Any]) -> str:
        coro: Any = task.get_coro()
        return str(coro.__qualname__)

    def left() -> set[Any]:
        tasks = {task for task in asyncio.all_tasks() if not name(task).startswith("TestRunner")}
        pooled = {thread for thread in threading.enumerate() if thread.name.startswith(("asyncio_", "resolve"))}
        running = tasks - {asyncio.current_task()}
        return running | (set(threading.enumerate()) - threads - pooled) | (connections() - sockets)

    try:
        await until(lambda: not left(), what="the end of all tasks, threads and connections", within_s=20)
    finally:
        gc.enable()


@asynccontextmanager
async def opened(**spec: Any) -> AsyncIterator[Sink]:
    """Open a sink for the stream ``lot``, and close the sink at the end."""
    sink = new_sink(Path("/nowhere"), HERE, **spec)
    try:
        yield sink
    finally:
        await sink.close(0)


def put(sink: Sink, event_ids: range) -> None:
    """Put events with these ids into the sink."""
    for event_id in event_ids:
        sink.put(event(event_id))


def has_sent(sink: Sink, count: int) -> bool:
    return sink.status().sent == count


def executable(name: str) -> str:
    """Return the path of a program. If the program is missing, skip the test, or fail it in CI."""
    path = shutil.which(name, path=SEARCHED)
    if path is None:
        reason = f"{name} is not installed: run scripts/servers"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def answers(port: int) -> bool:
    """Return whether a program is listening on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ServerProcess:
    """A server process that can be killed, frozen, and restarted on the same port."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self._command = command
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: answers(self.port), what="a server")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Suspend the process. The kernel still accepts connections to the server, but the server does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


ServerStarter = Callable[..., ServerProcess]  # its arguments are options of the server


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Run a web server that receives webhooks."""
    receiver = Receiver()
    await receiver.start()
    yield receiver
    receiver.gate.set()
    await receiver.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[ServerStarter]:
    """Return a function that starts Redis servers. A killed server loses no data that it has confirmed."""
    program = executable("redis-server")
    with ExitStack() as started:

        def start(*options: str) -> ServerProcess:
            port = free_port()
            command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
            server = ServerProcess([*command, "--appendonly", "yes", "--appendfsync", "always", *options], port)
            started.callback(server.kill)
            return server

        yield start


def entries(port: int, key: str = "sightline:lot", **login: str) -> list[int]:
    """Return the event ids in a Redis Stream."""
    with redis.Redis(port=port, **login) as client:  # type: ignore[arg-type]
        return [json.loads(fields[b"event"])["event_id"] for _, fields in client.xrange(key)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ServerStarter]:
    """Return a function that starts MQTT brokers."""
    program = executable("mosquitto")
    with ExitStack() as started:

        def start(*options: str) -> ServerProcess:
            port = free_port()
            config = tmp_path / "mosquitto.conf"
            lines = [f"listener {port} 127.0.0.1", "persistence false", *(options or ("allow_anonymous true",))]
            config.write_text("\n".join(lines))
            server = ServerProcess([program, "-c", str(config)], port)
            started.callback(server.kill)
            return server

        yield start

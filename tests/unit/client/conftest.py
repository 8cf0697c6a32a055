"""Fixtures that run each test with both clients against a real server. A wrapper makes the async client synchronous."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serve_app.client import AsyncClient, Client
from tests.support.fakes import FakeBackend, FakeStreams
from tests.support.stream_server import StreamServer, serve_streams


class SyncWrapper:
    """A wrapper that makes an object's asynchronous methods synchronous."""

    def __init__(self, target: Any, runner: asyncio.Runner, iterators: list[Any]) -> None:
        self._target = target
        self._runner = runner
        self._iterators = iterators

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name in {"streams", "jobs"}:
            return SyncWrapper(attribute, self._runner, self._iterators)
        return (lambda *args, **kwargs: self._call(attribute, *args, **kwargs)) if callable(attribute) else attribute

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        if inspect.isasyncgen(result):
            return self._start_iterator(result)
        return self._runner.run(result) if inspect.iscoroutine(result) else result

    def _start_iterator(self, items: Any) -> Iterator[Any]:
        iterator = self._iterate(items)
        self._iterators.append(iterator)
        return iterator

    def _iterate(self, items: Any) -> Iterator[Any]:
        async def next_item() -> Any:
            return await anext(items)

        try:
            while True:
                yield self._runner.run(next_item())
        except StopAsyncIteration:
            return
        finally:
            self._runner.run(items.aclose())


@pytest.fixture(scope="package")
def server() -> Iterator[StreamServer]:
    with serve_streams() as server:
        yield server


@pytest.fixture
def served(server: StreamServer) -> StreamServer:
    """Reset the shared server to its initial state, and return the server."""
    vars(server.backend).update(vars(FakeBackend()))
    vars(server.streams).update(vars(FakeStreams()))
    return server


@pytest.fixture(params=[Client, AsyncClient])
def kind(request: pytest.FixtureRequest) -> type[Client] | type[AsyncClient]:
    client: type[Client] | type[AsyncClient] = request.param
    return client


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def connect(kind: Any, runner: asyncio.Runner) -> Iterator[Any]:
    """Yield a function that makes clients of one kind, and close the clients afterwards."""
    clients: list[Any] = []
    iterators: list[Any] = []

    def connect(*args: Any, **kwargs: Any) -> Any:
        client = kind(*args, **kwargs)
        clients.append(SyncWrapper(client, runner, iterators) if kind is AsyncClient else client)
        return clients[-1]

    yield connect
    for one in iterators + clients:
        one.close()


@pytest.fixture
def client(connect: Any, served: StreamServer) -> Any:
    return connect(served.url)

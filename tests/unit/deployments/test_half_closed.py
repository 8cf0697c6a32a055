"""Tests that uvicorn answers clients that close their sending side, and notices clients that disconnect."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from serve_app.deployments.half_closed import answer_half_closed

pytestmark = pytest.mark.anyio
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def next_message(receive: Receive) -> Message:
    return await receive()


class Application:
    """An ASGI application that waits until the test sets ``may_answer``, and then answers.

    If the client disconnects first, the application sets ``has_gone``.
    """

    def __init__(self) -> None:
        self.may_answer, self.has_begun, self.has_gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.has_begun.set()
        message = asyncio.create_task(next_message(receive))
        answer = asyncio.create_task(self.may_answer.wait())
        await asyncio.wait({message, answer}, return_when=asyncio.FIRST_COMPLETED)
        if message.done() and message.result()["type"] == "http.disconnect":
            self.has_gone.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        message.cancel()


@asynccontextmanager
async def serving(http: str) -> AsyncIterator[tuple[Application, int]]:
    """Run an application in uvicorn, and yield the application and its port."""
    answer_half_closed()
    application = Application()
    config = uvicorn.Config(application, http=http, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server._serve([listener]))
        try:
            async with asyncio.timeout(20):
                yield application, listener.getsockname()[1]
        finally:
            application.may_answer.set()
            server.should_exit = True
            await task


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize(
    "request_bytes",
    [GET + b"\r\n", GET + b"Connection: close\r\n\r\n", GET.replace(b"1.1", b"1.0") + b"\r\n", POST + b"\r\nbody"],
    ids=["kept alive", "the last", "HTTP/1.0", "with a body"],
)
async def test_a_client_that_closes_its_sending_side_is_answered(http: str, request_bytes: bytes) -> None:
    async with serving(http) as (application, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        writer.write_eof()
        await application.has_begun.wait()
        application.may_answer.set()
        answer = await reader.read()  # read until the server closes the connection
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"ok")


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_a_client_that_disconnects_while_it_waits_is_noticed(http: str) -> None:
    async with serving(http) as (application, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + b"\r\n")
        await application.has_begun.wait()
        await asyncio.sleep(0.2)  # a client that closes within 0.1 s of its request is still answered
        writer.close()
        await application.has_gone.wait()


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_a_request_with_an_incomplete_body_is_not_answered(http: str) -> None:
    async with serving(http) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"\r\nbo")
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()

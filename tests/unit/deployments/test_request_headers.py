from __future__ import annotations

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from serve_app.deployments.request_headers import middlewares

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def headers_that_reach_serve(*sent: tuple[bytes, bytes]) -> set[str]:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(list(Request(scope).headers))(scope, receive, send)

    (middleware,) = middlewares()
    transport = httpx.ASGITransport(middleware.cls(echo, *middleware.args, **middleware.kwargs))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return set((await client.get("/", headers=list(sent))).json())


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-timeout-seconds",
        b"X-Request-Disconnect-Disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        b"x_session_id",
    ],
)
async def test_headers_that_control_serve_are_removed(name: bytes) -> None:
    assert name.decode().lower() not in await headers_that_reach_serve((name, b"1"))


@pytest.mark.parametrize("name", [b"x-request-id", b"traceparent"])
@pytest.mark.parametrize("value", [b"\xff\xfe", b"a\tb", b"a" * 10_000, b""])
async def test_an_id_that_is_not_printable_text_is_removed(name: bytes, value: bytes) -> None:
    assert name.decode() not in await headers_that_reach_serve((name, value))


async def test_other_headers_are_passed_on() -> None:
    sent = {b"x-request-id": b"my request", b"traceparent": b"00-0af7-b7ad-01", b"accept": b"\xff", b"x-mine": b"1"}
    assert await headers_that_reach_serve(*sent.items()) >= {name.decode() for name in sent}

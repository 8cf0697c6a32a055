"""The image fetcher accepts valid answers of web servers, and refuses all others."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest
from anyio import wait_all_tasks_blocked

from serve_app.api import url_fetcher
from serve_app.api.url_fetcher import Fetcher
from serve_app.errors import Overloaded, RateLimited, TooLarge, Unfetchable, UrlUnavailable
from serve_app.network import fetching
from tests.support.traps import Trap
from tests.support.web_server import ALLOWED, MAX_BYTES, OPEN, WebServer, ok, refusal, to

pytestmark = pytest.mark.anyio


async def test_a_request_for_a_picture_carries_no_private_headers(server: WebServer) -> None:
    server.answers["/a.jpg"] = ok(b"picture", "Set-Cookie: a=b\r\n")
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    for _ in range(2):
        assert await fetcher.fetch(f"{server.url}/a.jpg?size=1") == b"picture"
    first, *headers = server.requests[1].strip().split("\r\n")
    assert first == "GET /a.jpg?size=1 HTTP/1.1"
    assert dict(header.split(": ", 1) for header in headers) == {
        "Host": f"{OPEN}:{server.port}", "User-Agent": "sightline", "Accept": "image/*", "Accept-Encoding": "identity"
    }  # fmt: skip


async def test_proxies_from_the_environment_are_not_used(
    server: WebServer, forbidden: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{forbidden.port}")
    monkeypatch.delenv("NO_PROXY")
    assert await Fetcher(ALLOWED, MAX_BYTES).fetch(server.url) == b"picture"


async def test_at_most_three_redirects_are_followed(server: WebServer) -> None:
    server.answers |= {
        "/3": to("/2", 301), "/2": to(f"{server.url}/1", 307), "/1": to("1/../0", 303), "/4": to("/3", 308)
    }  # fmt: skip
    assert await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}/3") == b"picture"
    assert isinstance(await refusal(f"{server.url}/4"), Unfetchable)


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 305, 400, 401, 404, 500, 503])
async def test_only_status_200_is_accepted(status: int, server: WebServer) -> None:
    server.answers["/a"] = f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n".encode()
    error = await refusal(f"{server.url}/a")
    assert (error.status_code, error.code) == (422, "unfetchable")
    assert error.detail == f"url: the server responds with status {status} instead of 200"


@pytest.mark.parametrize("status", [400, 404, 408, 410, 425, 429, 500, 502, 503])
async def test_a_server_may_recover_from_some_statuses(status: int, server: WebServer) -> None:
    server.answers["/a"] = f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n".encode()
    may_recover = status not in {400, 404, 410}
    assert isinstance(await refusal(f"{server.url}/a"), UrlUnavailable) == may_recover


async def test_a_server_that_cannot_be_reached_may_recover(server: WebServer) -> None:
    await server.stop()
    assert isinstance(await refusal(f"{server.url}/a"), UrlUnavailable)
    await server.start()  # the fixture stops it


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ok(b"x", "Content-Encoding: gzip\r\n"), id="compressed"),
        pytest.param(ok(b"x", "Content-Encoding: identity, br\r\n"), id="compressed twice"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", id="compressed transfer"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", id="endless headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, id="an endless header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 200_000, id="an endless chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", id="two lengths"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", id="another protocol"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="no HTTP"),
    ],
)
async def test_an_answer_that_is_not_a_plain_file_is_refused(
    answer: bytes, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 0.5)
    server.answers["/a"] = answer
    assert isinstance(await refusal(f"{server.url}/a"), Unfetchable)


@pytest.mark.parametrize(
    "head", ["Content-Length: 100000000", "Transfer-Encoding: chunked", "Connection: close"], ids=lambda head: head[:8]
)
async def test_a_picture_is_limited_while_it_is_read(head: str, server: WebServer) -> None:
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    server.answers["/a"] = f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + 100 * chunk
    error = await refusal(f"{server.url}/a")
    assert isinstance(error, TooLarge)
    assert error.limit == "limits.max_body_mib"
    assert error.detail.startswith("limits.max_body_mib: ")


async def test_a_picture_sent_byte_by_byte_is_refused(server: WebServer) -> None:
    """Reading a chunk of one byte costs as much as reading a large chunk."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.answers |= {
        "/bytes": chunked + 1000 * b"1\r\nx\r\n" + b"0\r\n\r\n",
        "/tail": chunked + b"2000\r\n" + bytes(0x2000) + b"\r\n" + 2000 * b"1\r\nx\r\n" + b"0\r\n\r\n",
        "/few": chunked + 100 * b"1\r\nx\r\n" + b"0\r\n\r\n",
        "/large": chunked + 300 * (b"100\r\n" + bytes(256) + b"\r\n") + b"0\r\n\r\n",
    }
    for path in ("/bytes", "/tail"):
        error = await refusal(f"{server.url}{path}")
        assert isinstance(error, Unfetchable)
        assert "too small" in error.detail
    for path, size in (("/few", 100), ("/large", 300 * 256)):
        assert len(await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}{path}")) == size


async def test_a_picture_of_exactly_the_limit_is_fetched(server: WebServer) -> None:
    server.answers |= {"/limit": ok(bytes(MAX_BYTES)), "/over": ok(bytes(MAX_BYTES + 1))}
    assert len(await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}/limit")) == MAX_BYTES
    assert isinstance(await refusal(f"{server.url}/over"), TooLarge)


async def test_a_server_that_stops_sending_is_refused(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 0.2)
    server.answers["/a"] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx"
    assert isinstance(await refusal(f"{server.url}/a"), Unfetchable)


async def test_a_closed_port_gets_the_same_error_as_a_silent_server(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 0.2)
    server.gate.clear()
    silent = await refusal(server.url)
    with socket.create_server((OPEN, 0)) as closed:
        port = closed.getsockname()[1]
    assert (await refusal(f"http://{OPEN}:{port}/")).detail == silent.detail


async def test_an_answer_that_never_begins_ends_with_the_callers_timeout(server: WebServer) -> None:
    server.answers["/a"] = b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await Fetcher(ALLOWED, MAX_BYTES).fetch(f"{server.url}/a")


async def test_fetches_above_the_limit_are_refused_at_once(server: WebServer) -> None:
    server.gate.clear()
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    fetches = [asyncio.create_task(fetcher.fetch(server.url)) for _ in range(url_fetcher._MAX_FETCHES)]
    await wait_all_tasks_blocked()
    with pytest.raises(Overloaded, match=r"^url_fetches: 16 images") as refused:
        await fetcher.fetch(server.url)
    assert refused.value.limit == "url_fetches"
    server.gate.set()
    assert await asyncio.gather(*fetches) == [b"picture"] * len(fetches)
    assert await fetcher.fetch(server.url) == b"picture"


async def test_the_fetches_of_one_key_do_not_block_another_key(server: WebServer) -> None:
    server.gate.clear()
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    fetches = [asyncio.create_task(fetcher.fetch(server.url, "dock")) for _ in range(url_fetcher._MAX_FETCHES_PER_KEY)]
    await wait_all_tasks_blocked()
    with pytest.raises(RateLimited, match=r"^url_fetches_per_key: 4 images") as refused:
        await fetcher.fetch(server.url, "dock")
    assert refused.value.limit == "url_fetches_per_key"
    fetches.append(asyncio.create_task(fetcher.fetch(server.url, "yard")))
    server.gate.set()
    assert await asyncio.gather(*fetches) == [b"picture"] * len(fetches)
    assert await fetcher.fetch(server.url, "dock") == b"picture"
    assert not fetcher._in_flight


async def test_a_cancelled_fetch_no_longer_counts(server: WebServer) -> None:
    server.gate.clear()
    fetcher = Fetcher(ALLOWED, MAX_BYTES)
    for _ in range(url_fetcher._MAX_FETCHES + 1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await fetcher.fetch(server.url)
    server.gate.set()
    assert await fetcher.fetch(server.url) == b"picture"


async def test_no_log_or_error_contains_secrets_from_the_url(
    server: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers |= {"/hunter2": to("/a?key=hunter2"), "/a": b"HTTP/1.1 404 Not\r\nContent-Length: 0\r\n\r\n"}
    errors = [
        await refusal(f"{server.url}/hunter2?key=hunter2"),
        await refusal(f"http://me:hunter2@{OPEN}:{server.port}/"),
        await refusal("http://10.0.0.1/hunter2"),
        await refusal("http://127.0.0.1:hunter2/"),
    ]
    assert "hunter2" not in caplog.text + "".join(error.detail for error in errors)

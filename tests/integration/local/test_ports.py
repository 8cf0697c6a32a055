"""Tests of the ports that scripts/serve opens, of access to these ports, and of killed processes."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from scripts import launch
from scripts.launch import Server
from scripts.trials.cluster import Cluster
from serve_app.config import LimitArgs
from tests.integration.conftest import LONG_TIMEOUT_S, eventually

# The number of replicas of each deployment. Each replica has a gRPC server, which Ray always opens on all interfaces.
REPLICAS = {
    "Ingress": 2,
    "Preprocessor": 1,
    "Detector": 1,
    "StreamSupervisor": 1,
    "JobSupervisor": 1,
    "DriftMonitor": 1,
}
TO_A_REPLICA = "/ray.serve.ASGIService/HandleRequest"
TO_RAY = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
CLIENTS = 8


@dataclass(frozen=True)
class Open:
    """A socket that accepts connections or datagrams."""

    process: str
    ip: str
    port: int

    @property
    def on_loopback(self) -> bool:
        ip = ip_address(self.ip)
        return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


@pytest.fixture
def running(server: Server) -> Server:
    """Wait until HAProxy uses both Ingress replicas, and return the server."""
    eventually(lambda: routed(server) == REPLICAS["Ingress"], what="HAProxy's use of both Ingress replicas")
    return server


@pytest.fixture
def sockets(running: Server) -> list[Open]:
    """Return the open sockets of all processes of the server."""
    found = []
    root = psutil.Process(running.process.pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.Error, IndexError):  # skip a process that has just ended
            title = process.cmdline()[0].partition(".")[0]
            for connection in process.net_connections("inet"):
                is_udp = connection.type == socket.SOCK_DGRAM and not connection.raddr
                if connection.status == psutil.CONN_LISTEN or is_udp:
                    found.append(Open(title, connection.laddr.ip, connection.laddr.port))
    return found


def haproxies(running: Server) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(running.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # skip a process that has just ended
            if process.name() == "haproxy":
                found.append(process)
    return found


def routed(running: Server) -> int:
    """Return the number of Ingress replicas that HAProxy reports as up, or 0 during a reload."""
    up = re.compile(r'^haproxy_server_status{.*server="SERVE_REPLICA.*state="UP"} 1', re.MULTILINE)
    processes = haproxies(running)
    if len(processes) == 1:
        with suppress(psutil.Error, httpx.TransportError):
            for connection in processes[0].net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    shown = httpx.get(f"http://127.0.0.1:{connection.laddr.port}/metrics", timeout=30).text
                    if found := up.findall(shown):
                        return len(found)
    return 0


def ingresses(running: Server) -> list[psutil.Process]:
    return Cluster(running.url, running.process.pid).replicas("Ingress")


def other_address() -> str:
    """Return an address of this machine that is not loopback, or loopback if the machine has no other."""
    found = (address for addresses in psutil.net_if_addrs().values() for address in addresses)
    ips = [address.address for address in found if address.family == socket.AF_INET]
    return next((ip for ip in ips if not ip_address(ip).is_loopback), "127.0.0.1")


def token() -> str:
    return (Path.home() / ".ray/auth_token").read_text().strip()


def call(address: str, method: str, shown: str | None) -> grpc.StatusCode:
    """Send an empty gRPC message with this token, and return the status of the answer."""
    metadata = [("authorization", f"Bearer {shown}")] if shown else None
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def assert_requires_the_token(address: str, method: str) -> None:
    assert call(address, method, None) == grpc.StatusCode.UNAUTHENTICATED
    assert call(address, method, "0" * len(token())) == grpc.StatusCode.UNAUTHENTICATED
    assert call(address, method, token()) not in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}


def test_every_port_is_on_loopback_except_one_of_each_replica(running: Server, sockets: list[Open]) -> None:
    elsewhere = sorted(found.process for found in sockets if not found.on_loopback)
    expected = [f"ray::ServeReplica:sightline:{name}" for name, count in REPLICAS.items() for _ in range(count)]
    assert elsewhere == sorted(expected)
    ports = {found.port for found in sockets if found.on_loopback}
    assert httpx.URL(running.url).port in ports
    assert len(ports) > len(expected)  # Ray's other processes listen on loopback, too


def test_ports_outside_loopback_require_the_token(running: Server, sockets: list[Open]) -> None:
    tried = [found for found in sockets if not found.on_loopback]
    assert tried
    for found in tried:
        assert_requires_the_token(f"{other_address()}:{found.port}", TO_A_REPLICA)


def test_the_overview_has_the_address_of_rays_dashboard(running: Server) -> None:
    assert running.dashboard_url
    assert httpx.get(f"{running.url}/overview", timeout=LONG_TIMEOUT_S).json()["dashboard_url"] == running.dashboard_url


def test_ray_requires_the_token(running: Server) -> None:
    address = launch.ray_address(running.process.pid)
    assert ip_address(address.rpartition(":")[0]).is_loopback
    assert_requires_the_token(address, TO_RAY)


def test_clients_that_use_up_the_request_limit_do_not_block_others(running: Server) -> None:
    upload = b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    limit = LimitArgs().max_requests * REPLICAS["Ingress"]
    with ExitStack() as stack:
        for _ in range(limit + 40):
            held = stack.enter_context(socket.create_connection(("127.0.0.1", httpx.URL(running.url).port)))
            held.sendall(upload)
        refused = eventually(lambda: full(running), what="a refusal")
        assert httpx.get(f"{running.url}/livez", timeout=LONG_TIMEOUT_S).status_code == 200
    assert refused.json()["code"] == "overloaded"
    assert "Retry-After" in refused.headers
    eventually(lambda: full(running) is None, what="an accepted request")


def full(running: Server) -> httpx.Response | None:
    """Send a request. Return the response if the request limit was exceeded, and None otherwise."""
    answer = httpx.get(f"{running.url}/streams", timeout=LONG_TIMEOUT_S)
    return answer if answer.status_code == 503 else None


@dataclass
class Client:
    """A client that sends requests in a loop, and uses a new connection for each request.

    ``failures`` has the start times of the failed requests.
    """

    port: int
    failures: list[float] = field(default_factory=list)
    answers: int = 0

    async def run(self, done: asyncio.Event) -> None:
        while not done.is_set():
            started_at_s = time.monotonic()
            try:
                answered = await self._send()
            except OSError:
                answered = False
            if answered:
                self.answers += 1
            else:
                self.failures.append(started_at_s)
            await asyncio.sleep(0.01)

    async def _send(self) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in (await reader.read())[:16]
        finally:
            writer.close()


def assert_only_requests_in_flight_are_lost(
    running: Server, find: Callable[[Server], list[psutil.Process]], times: int
) -> None:
    """Kill the first process that ``find`` returns, while clients send requests.

    Do this ``times`` times. Requests that start after the process has died must succeed.
    """
    clients = [Client(httpx.URL(running.url).port or 0) for _ in range(CLIENTS)]

    async def run() -> None:
        done = asyncio.Event()
        sending = [asyncio.create_task(client.run(done)) for client in clients]

        async def answered() -> None:
            aims = [client.answers + 10 for client in clients]
            async with asyncio.timeout(30):
                while any(client.answers < aim for client, aim in zip(clients, aims, strict=True)):
                    await asyncio.sleep(0.01)

        for _ in range(times):
            await answered()
            for client in clients:
                client.failures.clear()
            (victim, *_) = await asyncio.to_thread(find, running)
            victim.kill()
            await asyncio.to_thread(victim.wait, 30)
            died_at_s = time.monotonic()
            await answered()
            assert [
                started_at_s for client in clients for started_at_s in client.failures if started_at_s > died_at_s
            ] == []
            assert max(len(client.failures) for client in clients) <= 1
        done.set()
        await asyncio.gather(*sending)

    asyncio.run(run())


def test_a_killed_haproxy_loses_only_requests_in_flight(running: Server) -> None:
    assert_only_requests_in_flight_are_lost(running, haproxies, 5)


def test_a_killed_ingress_loses_only_requests_in_flight(running: Server) -> None:
    assert_only_requests_in_flight_are_lost(running, ingresses, 1)


def test_a_service_that_is_killed_leaves_no_ray_running(server: Server) -> None:
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert any("raylet" in process.name() for process in family)
    server.process.kill()
    server.process.wait(LONG_TIMEOUT_S)
    _, alive = psutil.wait_procs(family, timeout=LONG_TIMEOUT_S)
    assert alive == []

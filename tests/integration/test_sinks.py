"""Sinks of streams and the real servers behind them, which are slow, away, killed and started again."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiomqtt
import psutil
import pytest
import redis
import standardwebhooks
from pydantic import TypeAdapter

from scripts.launch import free_port
from scripts.trials.relay import Relay
from serve_app.network.address_guard import Guard
from serve_app.schemas.streams import SinkSpec
from serve_app.streams.outputs.sinks import Sink, open_sink
from serve_app.types import Event
from tests.integration.conftest import eventually

pytestmark = pytest.mark.anyio
HERE = Guard((ip_network("127.0.0.0/8"),))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
QUEUE_SIZE = 1000
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"  # Debian's mosquitto is no user's command


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def connections() -> set[tuple[Any, ...]]:
    """Of this process, to anywhere."""
    return {(each.laddr, each.raddr) for each in psutil.Process().net_connections("tcp") if each.raddr}


@pytest.fixture(autouse=True)
async def nothing_left(anyio_backend: str) -> AsyncIterator[None]:
    """No task, thread or connection outlives its test; the event loop and the resolver keep theirs."""
    threads, sockets = set(threading.enumerate()), connections()
    gc.disable()  # it would close what only an error's frames still hold
    yield

    def left() -> set[Any]:
        tasks = {task for task in asyncio.all_tasks() if not task.get_coro().__qualname__.startswith("TestRunner")}
        lent = {thread for thread in threading.enumerate() if thread.name.startswith(("asyncio_", "resolve"))}
        running = tasks - {asyncio.current_task()}
        return running | (set(threading.enumerate()) - threads - lent) | (connections() - sockets)

    try:
        await until(lambda: not left(), what="a test that leaves nothing", within_s=20)
    finally:
        gc.enable()


async def until(look: Callable[[], object], what: str = "it", within_s: float = 60) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not look():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what} did not come true") from None


def event(event_id: int, kind: str = "result") -> Event:
    text = json.dumps({"event_id": event_id, "type": kind, "stream_id": "lot"})
    return Event(event_id, kind, "lot", text)


@asynccontextmanager
async def opened(**spec: Any) -> AsyncIterator[Sink]:
    sink = open_sink(TypeAdapter(SinkSpec).validate_python(spec), "lot", Path("/nowhere"), HERE)
    try:
        yield sink
    finally:
        await sink.close(0)


def put(sink: Sink, event_ids: range) -> None:
    for event_id in event_ids:
        sink.put(event(event_id))


def executable(name: str) -> str:
    path = shutil.which(name, path=SEARCHED)
    if path is None:
        reason = f"no {name} is installed here: see scripts/servers"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A program that listens, and can be killed and started again where it was."""

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
        """Its port takes connections, and nobody answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


# Webhooks


class Receiver:
    """An HTTP server that remembers its requests; it answers what ``answers`` says next, 200 after that."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.requests.append((first, headers, body))
                await self.gate.wait()
                writer.write(self.answers.pop(0) if self.answers else answer(200))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def events(self) -> list[list[int]]:
        """The numbers of the events of each request."""
        return [[each["event_id"] for each in json.loads(body)["events"]] for _, _, body in self.requests]


def answer(status: int, headers: str = "", body: bytes = b"ok") -> bytes:
    return f"HTTP/1.1 {status} Said\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    receiver.gate.set()
    await receiver.stop()


def webhook(receiver: Receiver, **spec: Any) -> Any:
    return opened(type="webhook", **{"url": f"http://127.0.0.1:{receiver.port}/hook"} | spec)


async def test_a_webhooks_signature_is_what_the_specification_says(receiver: Receiver) -> None:
    async with webhook(receiver, secret=SECRET) as sink:
        sink.put(Event(0, "result", "lot", '{"event_id": 0, "label": "Fußgänger", "at": 1.50}'))
        await sink.close(60)
    ((first, headers, body),) = receiver.requests
    assert first == "POST /hook HTTP/1.1"
    assert headers["content-type"] == "application/json"
    found = standardwebhooks.Webhook(SECRET).verify(body, headers)
    assert found == {"events": [{"event_id": 0, "label": "Fußgänger", "at": 1.5}]}
    assert b'"at": 1.50' in body  # as it was written, not parsed and written again
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(body + b" ", headers)


async def test_a_webhook_without_a_secret_is_not_signed(receiver: Receiver) -> None:
    async with webhook(receiver) as sink:
        sink.put(event(0))
        await sink.close(60)
    ((_, headers, _),) = receiver.requests
    assert "webhook-signature" not in headers
    assert headers["webhook-id"].startswith("msg_")


async def test_events_arrive_in_order_in_requests_of_limited_size(receiver: Receiver) -> None:
    async with webhook(receiver, max_batch=30) as sink:
        put(sink, range(100))
        await sink.close(60)
        assert sink.status().sent == 100
    assert [len(events) for events in receiver.events()] == [30, 30, 30, 10]
    assert list(itertools.chain(*receiver.events())) == list(range(100))


async def test_a_slow_webhook_loses_its_oldest_events_and_counts_them(receiver: Receiver) -> None:
    receiver.gate.clear()
    async with webhook(receiver, max_batch=1) as sink:
        sink.put(event(0))
        await until(lambda: receiver.requests)
        put(sink, range(1, QUEUE_SIZE + 11))
        status = sink.status()
        assert (status.sent, status.waiting, status.dropped) == (0, QUEUE_SIZE + 1, {"queue_full": 10})
        receiver.gate.set()
        await sink.close(60)
        assert sink.status().sent == QUEUE_SIZE + 1
    assert list(itertools.chain(*receiver.events())) == [0, *range(11, QUEUE_SIZE + 11)]


async def test_a_webhook_that_does_not_answer_in_time_is_asked_again(receiver: Receiver) -> None:
    receiver.gate.clear()
    async with webhook(receiver) as sink:
        sink.put(event(0))
        await until(lambda: sink.status().detail == "no answer within 5 s")
        receiver.gate.set()
        await until(lambda: sink.status().sent)
        assert sink.status().detail == ""


async def test_what_was_sent_while_the_webhook_was_away_arrives_when_it_is_back(receiver: Receiver) -> None:
    async with webhook(receiver) as sink:
        sink.put(event(0))
        await until(lambda: sink.status().sent)
        await receiver.stop()
        sink.put(event(1))
        await until(lambda: sink.status().detail.startswith("it cannot be reached"))
        put(sink, range(2, 10))
        await receiver.start()
        await until(lambda: sink.status().sent == 10)
        assert sink.status().detail == ""
    assert receiver.events() == [[0], [1], list(range(2, 10))]


@pytest.mark.parametrize(
    "failure", [answer(500), answer(503), answer(408), answer(429), b"HTTP/1.1 2", b"nonsense\r\n\r\n"]
)
async def test_a_failure_that_may_pass_is_sent_again_under_its_id(failure: bytes, receiver: Receiver) -> None:
    receiver.answers += [failure, answer(500)]
    async with webhook(receiver, secret=SECRET) as sink:
        put(sink, range(3))
        if b"Said" not in failure:
            await until(lambda: receiver.requests)
            await receiver.stop()
            await receiver.start()
        await until(lambda: sink.status().sent == 3)
    assert receiver.events() == [[0, 1, 2]] * 3
    assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == 1
    for _, headers, body in receiver.requests:
        standardwebhooks.Webhook(SECRET).verify(body, headers)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_a_refusal_drops_its_events_and_the_next_ones_are_sent(status: int, receiver: Receiver) -> None:
    receiver.answers.append(answer(status))
    async with webhook(receiver) as sink:
        put(sink, range(3))
        await until(lambda: sink.status().dropped)
        assert (sink.status().dropped, sink.status().detail) == ({"refused": 3}, f"it answers {status}")
        sink.put(event(3))
        await sink.close(60)
        assert (sink.status().sent, sink.status().detail) == (1, "")
    assert receiver.events() == [[0, 1, 2], [3]]


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.answers.append(answer(307, f"location: http://127.0.0.1:{receiver.port}/elsewhere\r\n"))
    async with webhook(receiver) as sink:
        sink.put(event(0))
        await sink.close(60)
        assert (sink.status().dropped, sink.status().detail) == ({"refused": 1}, "it answers 307")
    assert len(receiver.requests) == 1


async def test_an_endless_answer_is_not_read(receiver: Receiver) -> None:
    receiver.answers.append(answer(200, body=bytes(50_000_000)))
    async with webhook(receiver) as sink:
        put(sink, range(1))
        await until(lambda: sink.status().sent == 1)
        put(sink, range(1, 2))
        await until(lambda: sink.status().sent == 2)
    assert receiver.events() == [[0], [1]]


async def test_closing_gives_up_a_webhook_that_does_not_answer(receiver: Receiver) -> None:
    receiver.gate.clear()
    async with webhook(receiver, max_batch=2) as sink:
        put(sink, range(5))
        await until(lambda: receiver.requests)
        await sink.close(0)
        assert (sink.status().sent, sink.status().waiting, sink.status().dropped) == (0, 0, {"closed": 5})


async def test_no_log_holds_a_webhooks_secrets(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers += [answer(500), answer(404)]
    url = f"http://me:hunter2@127.0.0.1:{receiver.port}/hunter2?key=hunter2"
    async with webhook(receiver, url=url, secret=SECRET) as sink:
        sink.put(event(0))
        await until(lambda: sink.status().dropped)
    assert "it answers 500" in caplog.text
    assert "hunter2" not in caplog.text
    assert SECRET.removeprefix("whsec_") not in caplog.text


# Redis


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts one that forgets nothing that it confirmed."""
    program = executable("redis-server")
    with ExitStack() as started:

        def start(*options: str) -> Server:
            port = free_port()
            command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
            server = Server([*command, "--appendonly", "yes", "--appendfsync", "always", *options], port)
            started.callback(server.kill)
            return server

        yield start


def entries(port: int, key: str = "sightline:lot", **login: str) -> list[int]:
    """The numbers of the events of a Redis Stream."""
    with redis.Redis(port=port, **login) as client:  # type: ignore[arg-type]
        return [json.loads(fields[b"event"])["event_id"] for _, fields in client.xrange(key)]


async def test_events_are_entries_of_a_redis_stream(redis_server: Callable[..., Server]) -> None:
    port = redis_server().port
    async with opened(type="redis", url=f"redis://127.0.0.1:{port}/0", key="a:{stream_id}:{type}") as sink:
        put(sink, range(250))
        sink.put(event(250, "line"))
        await sink.close(60)
        assert sink.status().sent == 251
    assert entries(port, "a:lot:result") == list(range(250))
    assert entries(port, "a:lot:line") == [250]


async def test_a_redis_stream_is_trimmed(redis_server: Callable[..., Server]) -> None:
    port = redis_server().port
    async with opened(type="redis", url=f"redis://127.0.0.1:{port}", max_length=100) as sink:
        put(sink, range(1000))
        await sink.close(60)
    kept = entries(port)
    assert 100 <= len(kept) < 300  # Redis trims whole nodes
    assert kept == list(range(1000))[-len(kept) :]


async def test_what_was_sent_while_redis_was_away_arrives_when_it_is_back(redis_server: Callable[..., Server]) -> None:
    server = redis_server()
    async with opened(type="redis", url=f"redis://127.0.0.1:{server.port}") as sink:
        for times in range(3):
            sink.put(event(100 * times))
            await until(lambda sent=100 * times + 1: sink.status().sent == sent)
            server.kill()
            put(sink, range(100 * times + 1, 100 * times + 100))
            await until(lambda: sink.status().detail.startswith("it cannot be reached"))
            server.start()
            await until(lambda sent=100 * times + 100: sink.status().sent == sent)
            assert sink.status().detail == ""
    assert entries(server.port) == list(range(300))


async def test_a_frozen_redis_does_not_slow_the_stream(redis_server: Callable[..., Server]) -> None:
    server = redis_server()
    async with opened(type="redis", url=f"redis://127.0.0.1:{server.port}") as sink:
        sink.put(event(0))
        await until(lambda: sink.status().sent == 1)
        server.freeze()
        sink.put(event(1))
        await until(lambda: sink.status().detail)
        put(sink, range(2, QUEUE_SIZE + 12))
        assert sink.status().dropped == {"queue_full": 10}
        server.thaw()
        await until(lambda: sink.status().waiting == 0)
        assert sink.status().sent == QUEUE_SIZE + 2
    arrived = entries(server.port)
    assert arrived[:1] + arrived[-QUEUE_SIZE:] == [0, *range(12, QUEUE_SIZE + 12)]
    assert set(arrived[1:-QUEUE_SIZE]) == {1}  # at least once: the frozen server had taken it


async def test_a_redis_password_is_used_and_never_shown(
    redis_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = redis_server("--requirepass", "hunter:2").port
    async with opened(type="redis", url=f"redis://:hunter%3A2@127.0.0.1:{port}") as sink:
        sink.put(event(0))
        await sink.close(60)
        assert sink.status().sent == 1
    async with opened(type="redis", url=f"redis://:hunter3@127.0.0.1:{port}") as sink:
        sink.put(event(1))
        await until(lambda: "wants other credentials" in sink.status().detail)
        assert "hunter" not in repr(sink.status()) + caplog.text
    assert entries(port, password="hunter:2") == [0]


async def test_a_server_that_repeats_a_password_does_not_make_us_show_it(redis_server: Callable[..., Server]) -> None:
    port = redis_server("--rename-command", "AUTH", "").port
    async with opened(type="redis", url=f"redis://me:hunter2@127.0.0.1:{port}") as sink:
        sink.put(event(0))
        await until(lambda: sink.status().detail)
        assert "hunter2" not in sink.status().detail


async def test_a_key_that_holds_something_else_refuses_its_events(redis_server: Callable[..., Server]) -> None:
    port = redis_server().port
    with redis.Redis(port=port) as client:
        client.set("taken", "by a string")
    async with opened(type="redis", url=f"redis://127.0.0.1:{port}", key="taken") as sink:
        put(sink, range(3))
        await until(lambda: sink.status().dropped)
        assert (sink.status().dropped, sink.status().detail) == ({"refused": 3}, "it answers WRONGTYPE")


async def test_a_full_redis_is_waited_for(redis_server: Callable[..., Server]) -> None:
    port = redis_server("--maxmemory", "1").port
    async with opened(type="redis", url=f"redis://127.0.0.1:{port}") as sink:
        put(sink, range(3))
        await until(lambda: sink.status().detail == "it answers OutOfMemoryError")
        with redis.Redis(port=port) as client:
            client.config_set("maxmemory", 0)
        await until(lambda: sink.status().sent == 3)
    assert entries(port) == [0, 1, 2]


# MQTT


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts one."""
    program = executable("mosquitto")
    with ExitStack() as started:

        def start(*options: str) -> Server:
            port = free_port()
            config = tmp_path / "mosquitto.conf"
            lines = [f"listener {port} 127.0.0.1", "persistence false", *(options or ("allow_anonymous true",))]
            config.write_text("\n".join(lines))
            server = Server([program, "-c", str(config)], port)
            started.callback(server.kill)
            return server

        yield start


@asynccontextmanager
async def subscription(port: int, received: list[tuple[str, int]]) -> AsyncIterator[None]:
    """Adds topic and number of every event to ``received``."""
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("#", qos=1)

        async def collect() -> None:
            async for message in client.messages:
                received.append((str(message.topic), json.loads(message.payload)["event_id"]))

        collecting = asyncio.create_task(collect())
        yield
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)


def numbers(received: list[tuple[str, int]]) -> list[int]:
    """Of the events, each where it was received first."""
    return list(dict.fromkeys(event_id for _, event_id in received))


@pytest.mark.parametrize("qos", [0, 1])
async def test_events_are_mqtt_messages_in_their_order(qos: int, broker: Callable[..., Server]) -> None:
    port, received = broker().port, []
    async with subscription(port, received), opened(type="mqtt", url=f"mqtt://127.0.0.1:{port}", qos=qos) as sink:
        put(sink, range(250))
        sink.put(event(250, "line"))
        await sink.close(60)
        assert sink.status().sent == 251
        await until(lambda: len(received) >= 251)
    assert received == [("sightline/lot/result", n) for n in range(250)] + [("sightline/lot/line", 250)]


async def test_what_was_sent_while_the_broker_was_away_arrives_when_it_is_back(broker: Callable[..., Server]) -> None:
    server, received = broker(), []
    with Relay(server.port) as cable:  # plugged when the subscriber is back, too: the broker keeps nothing for it
        async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{cable.port}") as sink:
            for times in range(3):
                async with subscription(server.port, received):
                    cable.plug()
                    sink.put(event(100 * times))
                    await until(lambda sent=100 * times + 1: sink.status().sent == sent)
                    await until(lambda: sink.status().sent - 1 in numbers(received))
                server.kill()
                cable.unplug()
                put(sink, range(100 * times + 1, 100 * times + 100))
                await until(lambda: sink.status().detail.startswith("it cannot be reached"))
                server.start()
                async with subscription(server.port, received):
                    cable.plug()
                    await until(lambda sent=100 * times + 100: sink.status().sent == sent)
                    await until(lambda: sink.status().sent - 1 in numbers(received))
                assert sink.status().detail == ""
    assert numbers(received) == list(range(300))


async def test_a_broker_that_is_killed_is_found_again_at_its_port(broker: Callable[..., Server]) -> None:
    server = broker()
    async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{server.port}") as sink:
        for sent in (1, 2, 3):
            sink.put(event(sent))
            await until(lambda sent=sent: sink.status().sent == sent)
            server.kill()
            server.start()


async def test_a_dead_broker_does_not_slow_the_stream(broker: Callable[..., Server]) -> None:
    server = broker()
    async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{server.port}") as sink:
        sink.put(event(0))
        await until(lambda: sink.status().sent == 1)
        server.freeze()
        sink.put(event(1))
        await until(lambda: sink.status().detail)
        put(sink, range(2, QUEUE_SIZE + 12))
        assert sink.status().dropped == {"queue_full": 10}
        server.thaw()
        await until(lambda: sink.status().waiting == 0)
        assert sink.status().sent == QUEUE_SIZE + 2


async def test_a_broker_that_never_says_hello_leaves_nothing_open(broker: Callable[..., Server]) -> None:
    server = broker()
    server.freeze()
    async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{server.port}") as sink:
        sink.put(event(0))
        await until(lambda: sink.status().detail)
        await sink.close(0)
        assert sink.status().dropped == {"closed": 1}


async def test_closing_while_it_connects_leaves_nothing_open(broker: Callable[..., Server]) -> None:
    server = broker()
    async with opened(type="mqtt", url=f"mqtt://127.0.0.1:{server.port}") as sink:
        sink.put(event(0))
        await sink.close(0)
        assert sink.status().dropped == {"closed": 1}


async def test_a_broker_that_refuses_credentials_is_asked_again_and_they_are_not_shown(
    broker: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = broker("allow_anonymous false").port
    async with opened(type="mqtt", url=f"mqtt://me:hunter2@127.0.0.1:{port}") as sink:
        sink.put(event(0))
        await until(lambda: "Not authorized" in sink.status().detail)
        assert sink.status().waiting == 1
    assert "hunter2" not in sink.status().detail + caplog.text


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One that nobody vouches for, of 127.0.0.1; its key is beside it."""
    path = tmp_path / "certificate.pem"
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = [executable("openssl"), "req", *kind, *names, "-out", path, "-keyout", path.with_suffix(".key")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


async def assert_trusts_only_whom_the_system_does(
    spec: dict[str, Any], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(**spec) as sink:
        sink.put(event(0))
        await until(lambda: "CERTIFICATE_VERIFY_FAILED" in sink.status().detail)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with opened(**spec) as sink:
        sink.put(event(1))
        await until(lambda: sink.status().sent)


async def test_a_webhook_needs_a_certificate_that_is_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
    receiver = Receiver()
    await receiver.start(tls)
    spec = {"type": "webhook", "url": f"https://127.0.0.1:{receiver.port}/"}
    await assert_trusts_only_whom_the_system_does(spec, certificate, monkeypatch)
    await receiver.stop()
    assert receiver.events() == [[1]]


async def test_redis_needs_a_certificate_that_is_trusted(
    redis_server: Callable[..., Server], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    key = str(certificate.with_suffix(".key"))
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", key, "--tls-ca-cert-file", str(certificate)]
    plain = redis_server("--tls-port", str(port), "--tls-auth-clients", "no", *files).port
    spec = {"type": "redis", "url": f"rediss://127.0.0.1:{port}"}
    await assert_trusts_only_whom_the_system_does(spec, certificate, monkeypatch)
    assert entries(plain) == [1]


async def test_a_broker_needs_a_certificate_that_is_trusted(
    broker: Callable[..., Server], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [f"certfile {certificate}", f"keyfile {certificate.with_suffix('.key')}"]
    port = broker("allow_anonymous true", "user root", *files).port
    spec = {"type": "mqtt", "url": f"mqtts://127.0.0.1:{port}"}
    await assert_trusts_only_whom_the_system_does(spec, certificate, monkeypatch)

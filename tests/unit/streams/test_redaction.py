"""Redaction: the credentials in a stream's spec appear in no response and in no log line."""

from __future__ import annotations

import asyncio
import base64
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from scripts.launch import free_port
from serve_app.api.access.keys import make_key
from serve_app.api.app import build_api
from serve_app.config import StreamArgs, parse_args
from serve_app.errors import SourceError
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import StreamSpec, StreamStatus
from serve_app.streams.outputs.checks import check_outputs
from serve_app.streams.store import Record, StreamStore
from serve_app.streams.stream import Stream
from serve_app.types import EventPage, Principal
from serve_app.video.source import parse_source
from serve_app.video.video import open_video
from tests.support import principals
from tests.support.fake_drift import FakeDrift
from tests.support.fake_jobs import FakeJobs
from tests.support.fakes import FakeBackend, FakeMetrics, FakeStreams
from tests.support.local_streams import FakeDetector

pytestmark = pytest.mark.anyio
LOCAL = AddressGuard((ip_network("127.0.0.0/8"),))
SECRET = "hunter2"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(SECRET.encode() * 4).decode()
SECRETS = (SECRET, WEBHOOK_SECRET.removeprefix("whsec_"))


class RunningStreams(FakeStreams):
    """A fake of the supervision. The fake runs real streams in this process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.store = StreamStore(folder / "state")
        self.running: dict[str, tuple[Stream, asyncio.Task[None]]] = {}
        self._folder = folder

    async def create(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        source = parse_source(spec.source.uri, (self._folder,))
        check_outputs(spec, self._folder, LOCAL)
        self.store.put(Record(spec=spec))
        bookmark_file = self.store.bookmark_file(spec.id)
        stream = Stream(spec, source, FakeDetector(), bookmark_file, StreamArgs(output_dir=self._folder), LOCAL, 10**7)
        self.running[spec.id] = stream, asyncio.create_task(stream.run())
        return stream.status()

    async def all(self, who: Principal) -> list[StreamStatus]:
        return [stream.status() for stream, _ in self.running.values()]

    async def status(self, stream_id: str, who: Principal) -> StreamStatus:
        return self.running[stream_id][0].status()

    async def events(self, stream_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        return await self.running[stream_id][0].events(after, 0)

    async def close(self) -> None:
        for stream, task in self.running.values():
            stream.stop()
            await task


@asynccontextmanager
async def server_that_answers(answer: bytes) -> AsyncIterator[int]:
    """Run a server that sends the same answer to every request, and yield its port.

    ``CSEQ`` in the answer is replaced by the CSeq header of the RTSP request.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while asked := await reader.read(65536):
                number = [line for line in asked.split(b"\r\n") if line.startswith(b"CSeq")]
                writer.write(answer.replace(b"CSEQ", b"".join(number)))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


RTSP_DENIES = b'RTSP/1.0 401 Unauthorized\r\nCSEQ\r\nWWW-Authenticate: Basic realm="camera"\r\n\r\n'
HTTP_FAILS = f"HTTP/1.1 500 No\r\nContent-Length: {len(SECRET)}\r\n\r\n{SECRET}".encode()
MQTT_DENIES = bytes([0x20, 2, 0, 5])  # CONNACK: not authorised
REDIS_DENIES = f"-WRONGPASS the password {SECRET} is wrong\r\n".encode()


def sinks_at(ports: dict[str, int]) -> list[dict[str, Any]]:
    """Return sinks of all kinds, with credentials in every field that can contain them."""
    login = f"me:{SECRET}@127.0.0.1"
    url = f"http://{login}:{ports['http']}/{SECRET}?token={SECRET}"
    return [
        {"type": "webhook", "url": url, "secret": WEBHOOK_SECRET},
        {"type": "webhook", "url": f"https://{login}:{ports['http']}/{SECRET}", "secret": WEBHOOK_SECRET},
        {"type": "mqtt", "url": f"mqtt://{login}:{ports['mqtt']}"},
        {"type": "mqtt", "url": f"mqtts://{login}:{ports['closed']}"},
        {"type": "redis", "url": f"redis://{login}:{ports['redis']}/0"},
        {"type": "redis", "url": f"redis://{login}:{ports['closed']}/0"},
    ]


def sources_at(ports: dict[str, int]) -> list[str]:
    """Return sources of all network kinds. All of them contain credentials, and none of them works."""
    login = f"me:{SECRET}@127.0.0.1"
    return [
        f"rtsp://{login}:{ports['rtsp']}/{SECRET}?token={SECRET}",
        f"http://{login}:{ports['http']}/{SECRET}?token={SECRET}",
        f"https://{login}:{ports['http']}/{SECRET}.m3u8",
        f"tcp://{login}:{ports['closed']}/{SECRET}",
        f"rtsps://{login}:{ports['closed']}/{SECRET}",
    ]


REFUSED: list[dict[str, Any]] = [
    {"source": {"uri": f"rtsp:/me:{SECRET}@camera"}},  # a file name, because one slash is missing
    {"source": {"uri": f"me:{SECRET}@camera"}},
    {"source": {"uri": f"file:///somewhere/me:{SECRET}@camera"}},
    {"source": {"uri": f"rtsp://me:pass/{SECRET}@camera/1"}},
    {"source": {"uri": f"ftp://me:{SECRET}@camera/1"}},
    {"source": {"uri": f"rtsp://me:{SECRET}@camera:99999/1"}},
    {"source": {"uri": f"rtsp://me:{SECRET}@[camera/1"}},
    {"source": {"uri": [f"rtsp://me:{SECRET}@camera/1"]}},
    {"source": {"uri": f"rtsp://me:{SECRET}@camera/1", "user": SECRET}},
    {"source": f"rtsp://me:{SECRET}@camera/1"},
    {"source": {"uri": f"rtsp://me:{SECRET}@camera/{'x' * 4096}"}},
    *(
        {"source": {"uri": "rtsp://camera/1"}, "sinks": [sink]}
        for sink in (
            {"type": "mqtt", "url": f"mqtt://me:{SECRET}@broker/path"},
            {"type": "mqtt", "url": f"mqtt://me:pass/{SECRET}@broker"},
            {"type": "mqtt", "url": f"http://me:{SECRET}@broker"},
            {"type": "mqtt", "url": f"mqtt://me:{SECRET}@broker:99999"},
            {"type": "redis", "url": f"redis://me:{SECRET}@server/{SECRET}"},
            {"type": "redis", "url": f"redis://server?password={SECRET}"},
            {"type": "redis", "url": "redis://server", "password": SECRET},
            {"type": "webhook", "url": f"https://me:{SECRET}@[hook/1"},
            {"type": "webhook", "url": f"https://hook\x7f/{SECRET}"},
            {"type": "webhook", "url": "https://hook", "secret": SECRET},
            {"type": "webhook", "url": "https://hook", "secret": f"whsec_{SECRET * 40}"},
            {"type": "webhook", "url": "https://hook", "secret": {"value": SECRET}},
            {"type": "video", "url": f"rtsp://me:pass/{SECRET}@server/live"},
            {"type": "video", "url": f"rtmp://me:{SECRET}@server/live"},
            {"type": "video", "url": f"rtsp://me:{SECRET}@169.254.169.254/live"},
        )
    ),
]


def leaking(*texts: str) -> list[str]:
    """Return the texts that contain a secret."""
    return [text for text in texts if any(secret in text for secret in SECRETS)]


async def test_a_refusal_does_not_repeat_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport = httpx.ASGITransport(
        build_api(FakeBackend(), RunningStreams(tmp_path), FakeJobs(), FakeDrift(), FakeMetrics(), parse_args({}))
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for spec in REFUSED:
            answers = [await client.post("/streams", json=spec)]
            answers.append(await client.post("/streams", content=f'{{"source": {{"uri": "{SECRET}'.encode()))
            assert all(answer.is_client_error for answer in answers), answers[0].text
            assert leaking(*(answer.text for answer in answers)) == []
    assert leaking(caplog.text) == []


async def test_a_streams_credentials_appear_in_no_response_and_no_log_line(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve_app.streams.stream._CLOSE_TIMEOUT_S", 0.1)
    caplog.set_level(logging.DEBUG)
    key, entry = make_key("dock", ["streams"])
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    streams = RunningStreams(tmp_path)
    api = build_api(
        FakeBackend(),
        streams,
        FakeJobs(),
        FakeDrift(),
        FakeMetrics(),
        parse_args({"access": {"keys_file": str(tmp_path / "keys.yaml")}}),
    )
    header = {"Authorization": f"Bearer {key}"}
    answers: list[httpx.Response] = []
    async with (
        server_that_answers(RTSP_DENIES) as rtsp,
        server_that_answers(HTTP_FAILS) as http,
        server_that_answers(MQTT_DENIES) as mqtt,
        server_that_answers(REDIS_DENIES) as redis,
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://host", headers=header) as client,
    ):
        ports = {"rtsp": rtsp, "http": http, "mqtt": mqtt, "redis": redis, "closed": free_port()}
        for number, uri in enumerate(sources_at(ports)):
            spec = {"id": f"s{number}", "source": {"uri": uri}, "sinks": [] if number else sinks_at(ports)}
            answers.append(await client.post("/streams", json=spec))
            assert answers[-1].status_code == 201, answers[-1].text
        async with asyncio.timeout(60):
            while not all(
                status.state in {"failed", "reconnecting", "stalled"} and all(sink.detail for sink in status.sinks)
                for status in await streams.all(principals.LOCAL)
            ):
                await asyncio.sleep(0.05)
        answers.append(await client.get("/streams"))
        for number in range(len(streams.running)):
            answers.append(await client.get(f"/streams/s{number}"))
            page = await streams.events(f"s{number}", principals.LOCAL, -1, 0)
            assert leaking(*(event.json for event in page.events)) == []
        wrong = {"Authorization": f"Bearer {key}x"}
        answers.append(await client.get("/streams", headers=wrong))
        await streams.close()
    assert leaking(*(answer.text + str(answer.headers) for answer in answers)) == []
    output = caplog.text + "".join(capfd.readouterr())
    assert "sink http" in output  # proves that the sinks' failures were logged
    assert leaking(output) == []
    assert key not in output + "".join(answer.text for answer in answers)
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "state").iterdir()} == {0}


async def test_the_cause_of_a_source_error_does_not_show_its_url() -> None:
    """Check tracebacks, because a logged traceback shows the causes of an error, too."""
    async with server_that_answers(RTSP_DENIES) as rtsp, server_that_answers(HTTP_FAILS) as http:
        ports = {"rtsp": rtsp, "http": http, "closed": free_port()}

        def fail(uri: str) -> str:
            try:
                with open_video(parse_source(uri, ()), max_pixels=1) as video:
                    next(iter(video))
            except SourceError as exc:
                return "".join(traceback.format_exception(exc))
            raise AssertionError("the source was opened")

        tracebacks = [await asyncio.to_thread(fail, uri) for uri in sources_at(ports)]
    assert leaking(*tracebacks) == []

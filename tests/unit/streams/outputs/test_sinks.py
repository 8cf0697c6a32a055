from __future__ import annotations

import asyncio
import itertools
import json
import random
import resource
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio import wait_all_tasks_blocked
from pydantic import TypeAdapter, ValidationError

from serve_app.errors import InvalidParameter, StartError
from serve_app.network.address_guard import Guard
from serve_app.schemas.streams import SinkSpec
from serve_app.streams.outputs.sinks import Sink, jsonl, open_sink, queue
from serve_app.streams.outputs.sinks.outlet import Refused, Unsent
from serve_app.types import Event

pytestmark = pytest.mark.anyio
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def event(event_id: int, kind: str = "result") -> Event:
    text = json.dumps({"event_id": event_id, "type": kind, "stream_id": "lot"})
    return Event(event_id, kind, "lot", text)


LINE_BYTES = len(event(10).json) + 1  # of every event with two digits


def opened(folder: Path, **spec: Any) -> Sink:
    return open_sink(TypeAdapter(SinkSpec).validate_python(spec), "lot", folder, Guard())


class GatedOutlet:
    """Takes a batch each time the test opens the gate, or fails as the test says; remembers the batches."""

    target = "test"
    max_batch = 4

    def __init__(self, *failures: Exception) -> None:
        self.batches: list[list[Event]] = []
        self.gate = asyncio.Semaphore(0)
        self.is_closed = False
        self._failures = iter(failures)

    async def send(self, events: list[Event]) -> None:
        self.batches.append(events)
        await self.gate.acquire()
        if failure := next(self._failures, None):
            raise failure

    async def close(self) -> None:
        self.is_closed = True

    def ids(self) -> list[list[int]]:
        return [[event.event_id for event in batch] for batch in self.batches]

    def open(self) -> None:
        """For good."""
        for _ in range(10_000):
            self.gate.release()


def sink_of(outlet: Any, events: tuple[str, ...] = ("result",)) -> Sink:
    return Sink("test", outlet, stream_id="lot", events=events)


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not look():
            await asyncio.sleep(0.01)


async def test_what_arrives_while_a_batch_is_under_way_is_the_next_one() -> None:
    outlet = GatedOutlet()
    sink = sink_of(outlet)
    sink.put(event(0))
    await wait_all_tasks_blocked()
    for event_id in range(1, 7):
        sink.put(event(event_id))
    outlet.open()
    await sink.close(60)
    assert outlet.ids() == [[0], [1, 2, 3, 4], [5, 6]]
    assert (sink.status().sent, sink.status().waiting, sink.status().dropped) == (7, 0, {})


async def test_only_the_wanted_types_are_taken() -> None:
    outlet = GatedOutlet()
    outlet.open()
    sink = sink_of(outlet, ("state", "line"))
    for event_id, kind in enumerate(("result", "state", "gap", "line", "zone")):
        sink.put(event(event_id, kind))
    await sink.close(60)
    assert outlet.ids() == [[1, 3]]
    assert (sink.status().sent, sink.status().dropped) == (2, {})


async def test_a_full_queue_loses_its_oldest_and_counts_them() -> None:
    outlet = GatedOutlet()
    sink = sink_of(outlet)
    sink.put(event(0))
    await wait_all_tasks_blocked()
    for event_id in range(1, 1011):
        sink.put(event(event_id))
    status = sink.status()
    assert (status.sent, status.waiting, status.dropped) == (0, 1001, {"queue_full": 10})
    outlet.open()
    await sink.close(60)
    assert list(itertools.chain(*outlet.ids())) == [0, *range(11, 1011)]
    assert sink.status().sent == 1001


async def test_a_batch_that_was_not_taken_comes_again_and_the_detail_says_why() -> None:
    outlet = GatedOutlet(Unsent("nobody is there"), Unsent("still nobody"))
    sink = sink_of(outlet)
    sink.put(event(0))
    outlet.gate.release()
    await until(lambda: sink.status().detail == "nobody is there")
    sink.put(event(1))
    outlet.open()
    await until(lambda: sink.status().sent == 2)
    assert outlet.ids() == [[0], [0], [0], [1]]
    assert outlet.batches[0] is outlet.batches[1] is outlet.batches[2]
    assert sink.status().detail == ""
    await sink.close(0)


@pytest.mark.parametrize(
    ("failure", "detail"),
    [
        (Refused("it answers 404"), "it answers 404"),
        (ValueError("hunter2"), "the events cannot be sent: ValueError"),
    ],
)
async def test_a_batch_that_is_refused_is_dropped_and_the_next_one_is_sent(failure: Exception, detail: str) -> None:
    outlet = GatedOutlet(failure)
    sink = sink_of(outlet)
    for event_id in range(6):
        sink.put(event(event_id))
    outlet.gate.release()
    await until(lambda: sink.status().dropped)
    assert (sink.status().dropped, sink.status().detail) == ({"refused": 4}, detail)
    outlet.open()
    await sink.close(60)
    assert (sink.status().sent, sink.status().detail) == (2, "")


async def test_what_is_not_sent_in_time_is_dropped_when_it_closes() -> None:
    outlet = GatedOutlet()
    sink = sink_of(outlet)
    for event_id in range(6):
        sink.put(event(event_id))
    await sink.close(0)
    sink.put(event(6))
    status = sink.status()
    assert (status.sent, status.waiting, status.dropped) == (0, 0, {"closed": 7})
    assert outlet.is_closed


async def test_a_sink_without_an_event_closes() -> None:
    outlet = GatedOutlet()
    await sink_of(outlet).close(60)
    assert outlet.is_closed


async def test_closing_does_not_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "retry_pauses_s", lambda: itertools.repeat(3600.0))
    outlet = GatedOutlet(Unsent("away"), Unsent("still away"))
    outlet.open()
    sink = sink_of(outlet)
    sink.put(event(0))
    await until(lambda: sink.status().detail)
    await sink.close(60)
    assert sink.status().sent == 1


def test_attempts_come_later_and_later_up_to_a_bound() -> None:
    longest_s = [0.2 * 2**attempt for attempt in range(8)] + [30.0] * 3000
    for pause_s, bound_s in zip(queue.retry_pauses_s(), longest_s, strict=False):
        assert bound_s / 2 <= pause_s <= bound_s


@pytest.mark.parametrize("seed", range(20))
async def test_every_event_ends_as_sent_or_dropped_or_waits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "retry_pauses_s", lambda: itertools.repeat(0.0))
    monkeypatch.setattr(queue, "_MAX_WAITING", 8)
    chance = random.Random(seed)
    failures = (Unsent("later"), Refused("no"), KeyError("bug"), None)
    outlet = GatedOutlet(*(chance.choice(failures) for _ in range(100)))  # type: ignore[arg-type]
    sink = sink_of(outlet)

    def accounted() -> int:
        status = sink.status()
        return status.sent + status.waiting + sum(status.dropped.values())

    for event_id in range(300):
        sink.put(event(event_id))
        assert accounted() == event_id + 1
        for _ in range(chance.randrange(3)):
            outlet.gate.release()
            await asyncio.sleep(0)
        assert accounted() == event_id + 1
    await sink.close(0)
    assert accounted() == 300
    assert sink.status().waiting == 0


# JSON Lines


def lines_of(path: Path) -> list[int]:
    return [json.loads(line)["event_id"] for line in path.read_text().splitlines()]


async def test_a_line_an_event_in_a_file_that_only_we_may_read(tmp_path: Path) -> None:
    sink = opened(tmp_path, type="jsonl", path="{stream_id}/{type}.{x}.jsonl")
    for event_id in range(5):
        sink.put(event(event_id, "result" if event_id % 2 else "state"))
    await sink.close(60)
    odd, even = (tmp_path / f"lot/lot/{kind}.{{x}}.jsonl" for kind in ("result", "state"))
    assert (lines_of(odd), lines_of(even)) == ([1, 3], [0, 2, 4])
    assert stat.S_IMODE(odd.stat().st_mode) == 0o600
    assert sink.status().target == "lot/lot/{type}.{x}.jsonl"


@pytest.mark.parametrize(
    "path", ["../a.jsonl", "/etc/a.jsonl", "b/../../a.jsonl", "../gate/{type}.jsonl", "out/a.jsonl", "a\0b.jsonl"]
)
async def test_a_path_that_leads_out_of_the_streams_folder_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "below/lot").mkdir(parents=True)
    (tmp_path / "below/lot/out").symlink_to(tmp_path / "below")
    with pytest.raises(InvalidParameter):
        opened(tmp_path / "below", type="jsonl", path=path)


@pytest.mark.parametrize(
    "fields",
    [{"path": "gate/x.mp4"}, {"path": "."}, {"path": "{type}/.."}, {"path": "a.jsonl.1"}, {"max_mib": 1e-6}],
    ids=str,
)
def test_a_file_of_events_is_told_by_its_name_and_not_put_aside_at_every_line(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(SinkSpec).validate_python({"type": "jsonl"} | fields)


async def test_rotation_keeps_as_many_files_as_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_MIB", 3 * LINE_BYTES)
    sink = opened(tmp_path, type="jsonl", path="a.jsonl", max_mib=1, keep=2)
    for event_id in range(10, 21):
        sink.put(event(event_id))
        await until(lambda sent=event_id - 9: sink.status().sent == sent)
    await sink.close(60)
    found = {path.name: lines_of(path) for path in (tmp_path / "lot").iterdir()}
    assert found == {"a.jsonl": [19, 20], "a.jsonl.1": [16, 17, 18], "a.jsonl.2": [13, 14, 15]}


async def test_a_file_goes_on_where_an_earlier_sink_left_it(tmp_path: Path) -> None:
    for event_id in range(3):
        sink = opened(tmp_path, type="jsonl")
        sink.put(event(event_id))
        await sink.close(60)
    assert lines_of(tmp_path / "lot/events.jsonl") == [0, 1, 2]


async def test_a_folder_that_is_missing_is_waited_for(tmp_path: Path) -> None:
    sink = opened(tmp_path / "mounted-later", type="jsonl", path="a/b.jsonl")
    sink.put(event(0))
    await until(lambda: sink.status().detail == "it cannot be written: No such file or directory")
    (tmp_path / "mounted-later").mkdir()
    await until(lambda: sink.status().sent)
    assert lines_of(tmp_path / "mounted-later/lot/a/b.jsonl") == [0]
    await sink.close(0)


async def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    sink = opened(tmp_path, type="jsonl", path="a.jsonl")
    (tmp_path / "lot").mkdir()
    (tmp_path / "lot/a.jsonl").symlink_to("/dev/full")
    sink.put(event(0))
    await until(lambda: sink.status().detail == "it cannot be written: No space left on device")
    sink.put(event(1))
    (tmp_path / "lot/a.jsonl").unlink()
    await until(lambda: sink.status().sent == 2)
    assert lines_of(tmp_path / "lot/a.jsonl") == [0, 1]
    await sink.close(0)


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Sets how large this process's files may become, until the test is over."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_batch_that_fits_half_leaves_no_half_line(
    tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    full = 64 << 20
    before, path = full - LINE_BYTES - 20, tmp_path / "lot/a.jsonl"
    path.parent.mkdir()
    sink = opened(tmp_path, type="jsonl", path="a.jsonl", max_mib=1000)
    with path.open("wb") as file:
        file.truncate(before)
    file_size_limit(full)
    for event_id in range(10, 13):
        sink.put(event(event_id))
    await until(lambda: sink.status().detail == "it cannot be written: File too large")
    assert path.stat().st_size == before
    file_size_limit(full + 1000)
    await until(lambda: sink.status().sent == 3)
    assert path.read_bytes()[before:].count(b"\n") == 3
    assert path.stat().st_size == before + 3 * LINE_BYTES
    await sink.close(0)


# What a sink is called, and what it cannot be


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        ({"type": "webhook", "url": "https://me:hunter2@host:81/hunter2?a=hunter2"}, "https://host:81/…"),
        ({"type": "webhook", "url": "http://[::1]/hunter2", "secret": SECRET}, "http://[::1]/…"),
        ({"type": "mqtt", "url": "mqtt://me:hunter2@host:1884"}, "mqtt://host:1884"),
        ({"type": "mqtt", "url": "mqtts://me:hunter%3A2@host"}, "mqtts://host"),
        ({"type": "redis", "url": "redis://:hunter2@host:6380/3"}, "redis://host:6380/3"),
        ({"type": "redis", "url": "rediss://me:hunter2@host"}, "rediss://host/0"),
    ],
)
async def test_a_target_shows_no_secret(spec: dict[str, Any], target: str, tmp_path: Path) -> None:
    sink = opened(tmp_path, **spec)
    assert sink.status().target == target
    shown = repr(sink) + repr(sink.status()) + repr(vars(sink)) + repr(vars(sink._outlet).get("_redis"))
    assert "hunter2" not in shown
    await sink.close(0)


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "webhook", "url": "https://"},
        {"type": "webhook", "url": "https://host:hunter2/"},
        {"type": "webhook", "url": "https://ho st/hunter2"},
        {"type": "webhook", "url": "https://a..b/"},
        {"type": "webhook", "url": "https://[::1/"},
        {"type": "webhook", "url": "http://admin:12345/hunter2@host/"},  # a host and a port, to who parses it
        {"type": "webhook", "url": "http://admin:12345?hunter2@host/"},
        {"type": "webhook", "url": "http://admin:12345#hunter2@host/"},
        {"type": "mqtt", "url": "mqtt://admin:12345/hunter2@host"},
        {"type": "redis", "url": "redis://admin:12345/@host"},
        {"type": "webhook", "url": "https://host", "secret": "hunter2"},
        {"type": "webhook", "url": "https://host", "secret": SECRET.removeprefix("whsec_")},
        {"type": "webhook", "url": "https://host", "secret": "whsec_aHVudGVyMg=="},
        {"type": "webhook", "url": "https://host", "secret": "whsec_é"},
        {"type": "mqtt", "url": "mqtt://me:hunter/2@host"},
        {"type": "mqtt", "url": "mqtt://host/topic"},
        {"type": "mqtt", "url": "mqtt://host", "topic": "a/#"},
        {"type": "mqtt", "url": "mqtt://host", "topic": "+/a"},
        {"type": "redis", "url": "redis://host/name"},
        {"type": "redis", "url": "redis://host/0?password=hunter2"},
        {"type": "redis", "url": "redis://me:#hunter2@host"},
    ],
)
async def test_what_a_sink_cannot_be_is_refused_at_once(spec: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        opened(tmp_path, **spec)
    assert "hunter2" not in refusal.value.detail


@pytest.mark.parametrize(("kind", "library"), [("mqtt", "aiomqtt"), ("redis", "redis.asyncio")])
async def test_a_library_that_is_missing_is_named(
    kind: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"serve_app.streams.outputs.sinks.{kind}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(StartError, match=rf"pip install 'sightline\[{kind}\]'"):
        opened(tmp_path, type=kind, url=f"{kind}://host")

"""Tests of the documents for CloudWatch, against the rules of AWS's specification, and of their delivery.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import math
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from serve_app.errors import ConfigError
from serve_app.telemetry.cloudwatch import outlets
from serve_app.telemetry.cloudwatch.documents import Counts, documents
from serve_app.telemetry.cloudwatch.outlets import Delivery, open_outlet
from serve_app.telemetry.cloudwatch.publisher import MAX_LABELS, MAX_SOURCES, OTHER, Publisher
from tests.support.file_sizes import files_of_at_most

AT_S = 1_800_000_000
MAX_UDP_BYTES = 65_507


def parsed(line: str) -> dict[str, float]:
    """Return the metrics of a document by name. Fail if the document breaks a rule of the specification."""
    assert len(line.encode()) <= 1 << 20
    assert "\n" not in line
    root = json.loads(line)
    (directive,) = root["_aws"]["CloudWatchMetrics"]
    assert root["_aws"].keys() == {"Timestamp", "CloudWatchMetrics"}
    assert type(root["_aws"]["Timestamp"]) is int
    assert directive.keys() == {"Namespace", "Dimensions", "Metrics"}
    assert 1 <= len(directive["Namespace"]) <= 255
    (dimensions,) = directive["Dimensions"]
    assert len(dimensions) <= 30
    for name in dimensions:
        assert 1 <= len(name) <= 250
        value = root[name]
        assert 1 <= len(value) <= 1024
        assert value.isascii()
        assert value.isprintable()
        assert value.strip() == value
    names = [metric["Name"] for metric in directive["Metrics"]]
    assert 1 <= len(names) <= 100
    assert len(set(names)) == len(names)
    assert {metric["Unit"] for metric in directive["Metrics"]} <= {"Count", "None"}
    for name in names:
        assert 1 <= len(name) <= 255
        assert isinstance(root[name], int | float)
        assert math.isfinite(root[name])
    assert root.keys() == {"_aws", *dimensions, *names}  # the specification says that names refer to root members
    return {name: root[name] for name in names}


def totals(lines: Iterable[str]) -> Counter[str]:
    """Return the sum of each metric over documents."""
    total: Counter[str] = Counter()
    for line in lines:
        total.update({name: int(value) for name, value in parsed(line).items()})
    return total


def test_a_document_has_the_counts_of_one_model_and_one_source() -> None:
    (line,) = documents(
        Counts("best", "stream:lot", AT_S, 30, {"dog": 12, "traffic light": 3}, {"psi_confidence": 0.25})
    )
    assert json.loads(line) == {
        "_aws": {
            "Timestamp": 1_800_000_000_000,
            "CloudWatchMetrics": [
                {
                    "Namespace": "Sightline",
                    "Dimensions": [["Model", "Source"]],
                    "Metrics": [
                        {"Name": "images", "Unit": "Count"},
                        {"Name": "detections_dog", "Unit": "Count"},
                        {"Name": "detections_traffic light", "Unit": "Count"},
                        {"Name": "drift_psi_confidence", "Unit": "None"},
                    ],
                }
            ],
        },
        "Model": "best",
        "Source": "stream:lot",
        "images": 30,
        "detections_dog": 12,
        "detections_traffic light": 3,
        "drift_psi_confidence": 0.25,
    }
    parsed(line)


@pytest.mark.parametrize(("labels", "count"), [(0, 1), (99, 1), (100, 2), (199, 2), (200, 3)])
def test_more_than_100_metrics_are_split(labels: int, count: int) -> None:
    lines = documents(Counts("best", "http", AT_S, 7, {f"label {number}": number for number in range(labels)}))
    assert len(lines) == count
    assert totals(lines) == {"images": 7} | {f"detections_label {number}": number for number in range(labels)}


@pytest.mark.parametrize("label", ["人", "dög", 'a"b\\c', "tab\there", " ", "", "x" * 2000, "_aws", "Model", "%41"])
def test_any_label_model_and_source_gives_a_valid_document(label: str) -> None:
    (line,) = documents(Counts(label, label, AT_S, 1, {label: 5, "other": 1}, {label: 0.5}))
    values = parsed(line)
    assert sorted(values.values()) == [0.5, 1, 1, 5]


def test_labels_that_differ_only_after_the_cut_are_added_up() -> None:
    (line,) = documents(Counts("best", "http", AT_S, 1, {"x" * 300: 2, "x" * 301: 3}))
    assert [value for name, value in parsed(line).items() if name.startswith("detections_")] == [5]


def test_figures_that_are_not_numbers_are_left_out() -> None:
    (line,) = documents(Counts("best", "http", AT_S, 1, {}, {"a": math.nan, "b": math.inf, "c": 0.1}))
    assert parsed(line) == {"images": 1, "drift_c": 0.1}


def test_the_longest_document_fits_into_a_datagram() -> None:
    detections = {f"{number:03}" + "人" * 300: 10**12 for number in range(100)}
    lines = documents(Counts("ö" * 2000, "ä" * 2000, AT_S, 10**12, detections))
    assert max(len(line.encode()) for line in lines) <= MAX_UDP_BYTES
    assert [parsed(line) for line in lines]


class Sent:
    """An outlet that keeps the documents."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def send(self, line: str) -> None:
        self.lines.append(line)

    def close(self) -> None:
        pass


def published(*calls: list[Counts]) -> list[str]:
    """Publish the counts of several calls, and return the documents."""
    sent = Sent()
    publisher = Publisher(Delivery(sent))
    for counts in calls:
        publisher.publish(counts)
    publisher.close()
    assert publisher.outcomes == {"sent": len(sent.lines), "dropped": 0}
    return sent.lines


def at_ms(line: str) -> int:
    stamp: int = json.loads(line)["_aws"]["Timestamp"]
    return stamp


def test_each_minute_model_and_source_has_a_document() -> None:
    counts = [
        Counts("best", "http", AT_S, 3, {"dog": 2}),
        Counts("best", "stream/lot", AT_S, 1, {"dog": 1}),
        Counts("plates", "http", AT_S, 1, {}),
        Counts("best", "http", AT_S + 60, 1, {"cat": 1}),
    ]
    lines = published(counts)
    found = [(json.loads(line)["Model"], json.loads(line)["Source"], at_ms(line)) for line in lines]
    assert found == [(one.model, one.source, one.began_at_s * 1000) for one in counts]
    assert totals(lines) == {"images": 6, "detections_dog": 3, "detections_cat": 1}


def test_a_late_count_has_a_document_of_its_own_with_the_time_of_its_minute() -> None:
    """CloudWatch adds up documents with the same time and the same dimensions."""
    first, second = published(
        [Counts("best", "http", AT_S, 1, {"dog": 1})], [Counts("best", "http", AT_S, 1, {"dog": 5})]
    )
    assert [parsed(line)["detections_dog"] for line in (first, second)] == [1, 5]
    assert at_ms(first) == at_ms(second) == AT_S * 1000


def test_every_count_is_in_exactly_one_document() -> None:
    chance = random.Random(24)
    calls = [
        [
            Counts(
                chance.choice(["best", "plates"]),
                f"stream/{chance.randrange(200)}",
                AT_S + 60 * (call - chance.randrange(3)),
                chance.randrange(5),
                {f"label{chance.randrange(300)}": chance.randrange(1, 9) for _ in range(5)},
            )
            for _ in range(100)
        ]
        for call in range(20)
    ]
    lines = published(*calls)
    minutes: dict[int, Counter[str]] = {}
    for one in (one for counts in calls for one in counts):
        minute = minutes.setdefault(one.began_at_s, Counter())
        minute.update(images=one.images, detections=sum(one.detections.values()))
    found: dict[int, Counter[str]] = {}
    for line in lines:
        minute = found.setdefault(at_ms(line) // 1000, Counter())
        for name, value in parsed(line).items():
            minute[name.partition("_")[0]] += int(value)
    assert found == minutes


def test_sources_and_labels_beyond_the_limits_are_other_and_keep_the_sum() -> None:
    counts = [
        Counts("best", f"stream/{number}", AT_S, 1, {f"label{number}": 1}, {"psi": 0.1})
        for number in range(MAX_SOURCES + 50)
    ]
    lines = published(counts, counts)  # the second time, the same names are known
    roots = [json.loads(line) for line in lines]
    assert len({root["Source"] for root in roots}) == MAX_SOURCES + 1
    total = totals(lines)
    assert (total["images"], total[f"detections_{OTHER}"]) == (300, 100)
    assert len([name for name in total if name.startswith("detections_")]) == MAX_LABELS + 1
    assert [root for root in roots if root["Source"] == OTHER and "drift_psi" in root] == []


def test_the_limits_apply_to_each_model_separately() -> None:
    counts = [Counts(model, f"stream/{number}", AT_S, 1, {}) for model in "ab" for number in range(MAX_SOURCES)]
    assert OTHER not in {json.loads(line)["Source"] for line in published(counts)}


LINES = documents(Counts("best", "http", AT_S, 1, {"dog": 1}))


def test_documents_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    Delivery(open_outlet("stdout")).close(LINES)
    assert capsys.readouterr().out == LINES[0] + "\n"


def test_a_file_is_private_and_is_renamed_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "_MAX_FILE_BYTES", 2 * len(LINES[0]) + 2)
    path = tmp_path / "counts.jsonl"
    Delivery(open_outlet(str(path))).close(LINES * 5)
    assert path.read_text() == LINES[0] + "\n"
    assert (tmp_path / "counts.jsonl.1").read_text() == (LINES[0] + "\n") * 2
    assert path.stat().st_mode & 0o077 == 0


def test_a_full_disk_leaves_no_part_of_a_document(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "counts.jsonl"
    delivery = Delivery(open_outlet(str(path)))
    with files_of_at_most(len(LINES[0]) + 10):
        delivery.send(LINES * 2)
    assert path.read_text() == LINES[0] + "\n"
    assert "cannot be sent: No space left on device;" in caplog.text
    delivery.close()
    assert path.read_text() == (LINES[0] + "\n") * 2
    assert (delivery.sent, delivery.dropped) == (2, 0)


class Agent:
    """A server that receives lines over TCP, as the CloudWatch agent does."""

    def __init__(self, port: int = 0) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self.received: list[str] = []
        self.arrived = threading.Condition()
        self.connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections.append(connection)
            self._threads.append(threading.Thread(target=self._read, args=[connection], daemon=True))
            self._threads[-1].start()

    def _read(self, connection: socket.socket) -> None:
        with connection, connection.makefile() as lines:
            for line in lines:
                with self.arrived:
                    self.received.append(line.rstrip("\n"))
                    self.arrived.notify_all()

    def wait_for(self, count: int) -> list[str]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.received) >= count, 30)
            return list(self.received)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self.connections:  # a connection that the other side has closed is closed already
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)


@contextmanager
def running_agent(port: int = 0) -> Iterator[Agent]:
    agent = Agent(port)
    try:
        yield agent
    finally:
        agent.close()


def test_the_agent_gets_a_line_for_each_document_over_one_connection() -> None:
    with running_agent() as agent:
        delivery = Delivery(open_outlet(f"tcp://127.0.0.1:{agent.port}"))
        for _ in range(3):
            delivery.send(LINES)
        assert agent.wait_for(3) == LINES * 3
        assert len(agent.connections) == 1
        delivery.close()


def test_documents_wait_while_the_agent_is_away(caplog: pytest.LogCaptureFixture) -> None:
    with running_agent() as agent:
        port = agent.port
        delivery = Delivery(open_outlet(f"tcp://127.0.0.1:{port}"))
        delivery.send(["1"])
        agent.wait_for(1)
    delivery.send(["2"])
    delivery.send(["3"])
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["telemetry.cloudwatch"]
    with running_agent(port) as agent:
        delivery.send(["4"])
        assert agent.wait_for(3) == ["2", "3", "4"]
        delivery.close()
    assert (delivery.sent, delivery.dropped) == (4, 0)


def test_the_oldest_of_too_many_waiting_documents_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlets, "MAX_WAITING", 3)
    delivery = Delivery(open_outlet(str(tmp_path / "missing/counts.jsonl")))
    delivery.send(["1", "2"])
    delivery.send(["3", "4"])
    assert delivery.dropped == 1
    (tmp_path / "missing").mkdir()
    delivery.close(["5"])
    assert (tmp_path / "missing/counts.jsonl").read_text() == "3\n4\n5\n"
    assert (delivery.sent, delivery.dropped) == (3, 2)


def test_what_cannot_be_sent_at_the_end_is_counted(tmp_path: Path) -> None:
    delivery = Delivery(open_outlet(str(tmp_path / "missing/counts.jsonl")))
    delivery.close(["1", "2"])
    assert (delivery.sent, delivery.dropped) == (0, 2)


def test_the_agent_gets_a_datagram_for_each_document() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(30)
        Delivery(open_outlet(f"udp://127.0.0.1:{agent.getsockname()[1]}")).close([*LINES, "second"])
        assert [agent.recv(MAX_UDP_BYTES).decode() for _ in range(2)] == [*LINES, "second"]


@pytest.mark.parametrize(
    "setting",
    [
        "tcp://127.0.0.1",
        "http://127.0.0.1:25888",
        "unix:///run/agent",
        "tcp://:25888",
        "tcp://a:99999",
        "udp://agent..local:1",
        "127.0.0.1:25888",
        "agent:25888",
        "tcp:127.0.0.1:25888",
        "udp:/agent:1",
    ],
)
def test_an_address_that_the_agent_does_not_have_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.cloudwatch"):
        open_outlet(setting)

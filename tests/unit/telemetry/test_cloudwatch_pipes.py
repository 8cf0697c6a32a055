"""Tests of documents for CloudWatch that go to a pipe, whose reader may be absent or slow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_app.telemetry.cloudwatch import outlets
from serve_app.telemetry.cloudwatch.outlets import Delivery, open_outlet

LINE = "a" * 10_000  # longer than what a pipe takes as a whole


def test_documents_go_to_a_pipe_such_as_the_standard_output_of_another_process() -> None:
    reader, writer = os.pipe()
    with open(reader) as pipe:
        Delivery(open_outlet(f"/proc/self/fd/{writer}")).close(["1", "2"])
        os.close(writer)
        assert pipe.read() == "1\n2\n"


def test_documents_wait_until_a_pipe_has_a_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe")
    delivery = Delivery(open_outlet(str(tmp_path / "pipe")))
    delivery.send(["1"])
    assert "cannot be sent: No such device or address" in caplog.text
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    delivery.send(["2"])
    assert os.read(reader, 100) == b"1\n2\n"
    os.close(reader)


def test_a_slow_reader_of_a_pipe_gets_every_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outlets, "_TIMEOUT_S", 0.01)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    delivery = Delivery(open_outlet(str(tmp_path / "pipe")))
    delivery.send([LINE] * 10)  # more than a pipe holds
    assert "the reader of the pipe is too slow" in caplog.text
    received = b""
    while delivery.sent < 10:
        received += os.read(reader, 100_000)
        delivery.send([])
    received += os.read(reader, 1_000_000)
    lines = received.decode().splitlines()
    assert lines.count(LINE) == 10
    assert all(LINE.startswith(part) for part in lines)  # a document that was cut stands on a line of its own
    os.close(reader)

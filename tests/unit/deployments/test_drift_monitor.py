"""Tests of the calls to the DriftMonitor, which may restart."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.deployments import drift_monitor as module
from serve_app.deployments.drift_monitor import forget_stream
from serve_app.deployments.handles import StubMethod
from serve_app.deployments.stubs import DriftMonitorStub
from serve_app.errors import Unavailable

pytestmark = pytest.mark.anyio


class Monitor:
    """A fake of the DriftMonitor's replicas, which do not answer the first calls."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls: list[tuple[Any, ...]] = []

    async def call(self, method: StubMethod[..., Any], *args: Any) -> None:
        self.calls.append((method, *args))
        if len(self.calls) <= self.failures:
            raise Unavailable("the drift monitor is starting; retry later")


async def test_a_deleted_stream_is_forgotten_once_the_monitor_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FORGET_INTERVAL_S", 0)
    monitor = Monitor(failures=2)
    await forget_stream(monitor, "gate")  # type: ignore[arg-type]
    assert monitor.calls == [(DriftMonitorStub.forget, "stream/gate")] * 3

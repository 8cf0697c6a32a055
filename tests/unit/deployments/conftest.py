"""Fixtures that keep the replicas in these tests from listening, or from finding each other on this node."""

from __future__ import annotations

import pytest

from serve_app.deployments import detector, preprocessor
from tests.support.fake_replicas import NOWHERE, no_listening


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make calls use the handle, because no replica is found on this node."""
    monkeypatch.setattr(*NOWHERE)
    monkeypatch.setattr(detector, "listen", no_listening)
    monkeypatch.setattr(preprocessor, "listen", no_listening)

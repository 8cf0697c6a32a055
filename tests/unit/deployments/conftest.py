"""No replica of these tests listens, nor is one on this node."""

from __future__ import annotations

import pytest

from serve_app.deployments import detector, preprocessor
from tests.support.fake_replicas import NOWHERE, no_listening


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No replica is on this node, so that the handle is called, and nobody looks for one."""
    monkeypatch.setattr(*NOWHERE)
    monkeypatch.setattr(detector, "listen", no_listening)
    monkeypatch.setattr(preprocessor, "listen", no_listening)

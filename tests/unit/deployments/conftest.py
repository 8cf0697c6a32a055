"""Fixtures that stop replicas from listening on Unix sockets and from finding each other."""

from __future__ import annotations

import pytest

from serve_app.deployments import detector, preprocessor
from tests.support.fake_replicas import NOWHERE, no_listening


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all replicas on this node, so that calls use the deployment's handle."""
    monkeypatch.setattr(*NOWHERE)
    monkeypatch.setattr(detector, "listen", no_listening)
    monkeypatch.setattr(preprocessor, "listen", no_listening)

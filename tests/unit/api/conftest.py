"""Fakes of the backend behind the HTTP interface."""

from __future__ import annotations

import pytest

from tests.support.fakes import FakeBackend, FakeMetrics


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def metrics() -> FakeMetrics:
    return FakeMetrics()

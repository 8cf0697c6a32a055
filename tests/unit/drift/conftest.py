"""Fixtures for tests of drift."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.drift.store import DriftStore


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DriftStore]:
    made = DriftStore(tmp_path)
    assert made.acquire()
    yield made
    made.close()

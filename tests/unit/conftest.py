"""Fixtures for unit tests, which must not start Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import pytest
import ray

from tests.support.traps import Trap, trap


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that tries to start Ray."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("unit tests must not start Ray: move this test to tests/integration")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def forbidden() -> Iterator[Trap]:
    """Listen on a port, and fail the test if anything connects to it."""
    with trap() as it:
        yield it


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Create a folder that every user can read. (Pytest's ``tmp_path`` can be read only by its owner.)"""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)

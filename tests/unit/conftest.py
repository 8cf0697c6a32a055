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
    """Make any attempt to start Ray an error."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("a unit test must not start Ray")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def forbidden() -> Iterator[Trap]:
    """Listen on a port to which no connection is allowed."""
    with trap() as it:
        yield it


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Make a folder that every user can read; only its owner can read ``tmp_path``."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)

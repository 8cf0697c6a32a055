"""Unit tests need no Ray."""

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
    """Starting Ray is an error."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("a unit test must not start Ray")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def forbidden() -> Iterator[Trap]:
    """Listen at a port to which nobody may connect."""
    with trap() as it:
        yield it


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user of the machine can read; ``tmp_path`` is its own user's."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)

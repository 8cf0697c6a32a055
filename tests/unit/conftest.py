"""Unit tests need no Ray."""

from __future__ import annotations

from typing import NoReturn

import pytest
import ray


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting Ray is an error."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("a unit test must not start Ray")

    monkeypatch.setattr(ray, "init", refuse)

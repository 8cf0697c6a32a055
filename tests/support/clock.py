"""A fake clock for tests."""

from __future__ import annotations


class Clock:
    """A clock whose time is set by the test."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

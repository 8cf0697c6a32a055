"""The cutting of a source's items into units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from serve_app.jobs.units import MAX_UNIT_ITEMS, Item, NewUnit

T = TypeVar("T")

_FIRST_UNIT_ITEMS = 4  # small, so that the first result comes soon


def cut(items: Iterable[Item]) -> Iterator[NewUnit]:
    """Cut items into units that grow: 4, 8, 16, and then 32 items."""
    for group in groups(items):
        yield NewUnit(items=tuple(group))


def groups(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut a series into lists of the sizes of units."""
    rest = iter(items)
    size = _FIRST_UNIT_ITEMS
    while group := list(islice(rest, size)):
        yield group
        size = min(2 * size, MAX_UNIT_ITEMS)

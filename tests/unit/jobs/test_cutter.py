from __future__ import annotations

from serve_app.jobs.cutter import cut
from serve_app.jobs.units import Item


def test_units_grow_so_that_the_first_result_comes_soon() -> None:
    units = list(cut(Item(str(number)) for number in range(100)))
    assert [len(unit.items) for unit in units] == [4, 8, 16, 32, 32, 8]


def test_each_item_is_in_exactly_one_unit_and_in_order() -> None:
    units = cut(Item(str(number)) for number in range(77))
    assert [item.name for unit in units for item in unit.items] == [str(number) for number in range(77)]


def test_no_item_makes_no_unit() -> None:
    assert not list(cut([]))

"""Tests of what the store keeps as bytes."""

from __future__ import annotations

import json
import math
import zlib

import pytest

from serve_app.jobs.store.records import pack_content, unpack_content
from serve_app.jobs.units import Clip, Item, NewUnit


@pytest.mark.parametrize(
    "unit",
    [
        NewUnit(clip=Clip("day.mp4", 10.0, 20.0, 300, 250, "1764421200000000000")),
        NewUnit(clip=Clip("b\udc80é.mp4", 3590.0, math.inf, 1, 107_700, '"9b2cf5"')),
        NewUnit((Item("a.jpg", 5, "etag", 512, "my-id"), Item("b\udc80\n\x00é.jpg"))),
    ],
)
def test_a_unit_comes_back_as_it_was_stored(unit: NewUnit) -> None:
    assert unpack_content(pack_content(unit)) == (unit.items, unit.clip)


def test_clips_of_earlier_versions_can_be_read() -> None:
    data = zlib.compress(json.dumps({"clip": ["day.mp4", 10.0, 20.0, 300]}).encode())
    assert unpack_content(data) == ((), Clip("day.mp4", 10.0, 20.0, 300))

"""The queue shares the engine by weight between kinds of traffic, and equally between the tenants of one kind."""

from __future__ import annotations

from collections import Counter

import pytest

from serve_app.errors import Overloaded
from serve_app.inference.fair_queue import FairQueue
from serve_app.types import Traffic

WEIGHTS: dict[Traffic, float] = {"interactive": 8, "stream": 4, "job": 1}


def queue(max_size: int = 1000) -> FairQueue[str]:
    return FairQueue(WEIGHTS, max_size)


def put(queue: FairQueue[str], traffic: Traffic, tenant: str, count: int) -> None:
    for number in range(count):
        queue.put(f"{traffic} {tenant}{number}", traffic, tenant)


def take(queue: FairQueue[str], count: int) -> list[str]:
    return [item for _ in range(count) if (item := queue.take()) is not None]


def test_kinds_share_by_weight_while_all_have_items() -> None:
    waiting = queue()
    for traffic in WEIGHTS:
        put(waiting, traffic, "a", 200)
    taken = Counter(item.split()[0] for item in take(waiting, 130))
    assert taken == {"interactive": 80, "stream": 40, "job": 10}


def test_a_single_kind_gets_everything_in_its_order() -> None:
    waiting = queue()
    put(waiting, "job", "a", 5)
    assert take(waiting, 9) == [f"job a{number}" for number in range(5)]


def test_a_kind_that_was_idle_is_served_next_but_has_no_credit() -> None:
    waiting = queue()
    put(waiting, "job", "a", 100)
    take(waiting, 50)
    put(waiting, "interactive", "a", 100)
    taken = [item.split()[0] for item in take(waiting, 19)]
    assert taken[0] == "interactive"
    assert Counter(taken) == {"interactive": 17, "job": 2}


def test_tenants_of_a_kind_are_served_round_robin() -> None:
    waiting = queue()
    put(waiting, "stream", "greedy", 50)
    put(waiting, "stream", "modest", 2)
    put(waiting, "stream", "new", 1)
    assert take(waiting, 6) == [
        "stream greedy0", "stream modest0", "stream new0", "stream greedy1", "stream modest1", "stream greedy2",
    ]  # fmt: skip


def test_a_full_kind_refuses_only_its_own_items() -> None:
    waiting = queue(max_size=2)
    put(waiting, "stream", "a", 2)
    with pytest.raises(Overloaded, match=r"^batcher\.max_queue_size: 2 images wait") as refusal:
        waiting.put("one more", "stream", "a")
    assert refusal.value.limit == "batcher.max_queue_size"
    assert waiting.put("welcome", "interactive", "a") is None
    assert waiting.sizes() == {"interactive": 1, "stream": 2, "job": 0}


def test_items_of_a_greedy_tenant_are_displaced_by_those_of_others() -> None:
    waiting = queue(max_size=4)
    put(waiting, "interactive", "greedy", 4)
    assert waiting.put("first", "interactive", "modest") == "interactive greedy3"
    assert waiting.put("second", "interactive", "modest") == "interactive greedy2"
    with pytest.raises(Overloaded):  # both tenants have two items
        waiting.put("third", "interactive", "modest")
    assert len(waiting) == 4
    assert take(waiting, 9) == ["interactive greedy0", "first", "interactive greedy1", "second"]


def test_unwanted_items_are_removed_without_being_served() -> None:
    unwanted = {"stream a0", "stream a1"}
    waiting = FairQueue[str](WEIGHTS, 3, lambda item: item not in unwanted)
    put(waiting, "stream", "a", 3)
    waiting.put("new", "stream", "b")  # the full queue accepts this item, because unwanted items are removed
    assert waiting.sizes()["stream"] == 2
    assert take(waiting, 9) == ["stream a2", "new"]


def test_a_tenant_whose_items_are_all_unwanted_is_skipped() -> None:
    waiting = FairQueue[str](WEIGHTS, 9, lambda item: "a" not in item.split()[-1])
    put(waiting, "job", "a", 3)
    put(waiting, "job", "b", 1)
    assert take(waiting, 9) == ["job b0"]
    assert len(waiting) == 0


def test_draining_removes_everything() -> None:
    waiting = queue()
    put(waiting, "job", "a", 2)
    put(waiting, "stream", "b", 1)
    assert sorted(waiting.drain()) == ["job a0", "job a1", "stream b0"]
    assert (len(waiting), waiting.take()) == (0, None)

"""The queue shares the engine by weight between kinds of traffic, and equally between the tenants of one kind."""

from __future__ import annotations

import random
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


def test_items_that_were_passed_over_because_of_their_shape_are_next() -> None:
    waiting = queue()
    for number in range(3):
        waiting.put(f"a square{number}", "stream", "a", shape="square")
        waiting.put(f"b wide{number}", "stream", "b", shape="wide")
    assert waiting.take() == "a square0"
    assert [waiting.take_like("square", 100), waiting.take_like("square", 100)] == ["a square1", "a square2"]
    assert waiting.take_like("square", 100) is None
    waiting.put("c square", "stream", "c", shape="square")
    assert take(waiting, 3) == ["b wide0", "c square", "b wide1"]  # the new tenant does not wait behind tenant a's debt


def test_a_tenant_waits_longer_for_its_next_turn_after_it_was_served_before_its_turn() -> None:
    waiting = queue()
    for number in range(9):
        waiting.put(f"a square{number}", "stream", "a", shape="square")
        waiting.put(f"b wide{number}", "stream", "b", shape="wide")
    assert [waiting.take(), waiting.take_like("square", 100), waiting.take_like("square", 100)][-1] == "a square2"
    assert take(waiting, 6) == [
        "b wide0", "b wide1", "b wide2", "a square3", "b wide3", "a square4"
    ]  # fmt: skip


def test_a_kind_waits_longer_for_its_next_turn_after_it_was_served_before_its_turn() -> None:
    waiting = queue()
    for number in range(30):
        waiting.put(f"interactive wide{number}", "interactive", "a", shape="wide")
        waiting.put(f"job square{number}", "job", "b", shape="square")
    assert waiting.take() == "interactive wide0"
    assert [waiting.take_like("square", 100), waiting.take_like("square", 100)] == ["job square0", "job square1"]
    waiting.put("stream", "stream", "c", shape="square")  # the new kind does not wait behind the debt of the jobs
    assert take(waiting, 2) == ["interactive wide1", "stream"]
    assert Counter(item.split()[0] for item in take(waiting, 16)) == {"interactive": 15, "job": 1}


def test_the_items_of_one_tenant_keep_their_order_across_shapes() -> None:
    waiting = queue()
    for number, shape in enumerate(["wide", "square", "square", "tall", "wide"]):
        waiting.put(f"{shape}{number}", "job", "a", shape=shape)
    assert take(waiting, 9) == ["wide0", "square1", "square2", "tall3", "wide4"]


def test_tenants_share_the_costs_equally_and_not_the_items() -> None:
    waiting = queue()
    for number in range(100):
        waiting.put(f"squares {number}", "interactive", "squares", shape="square", cost=1)
        waiting.put(f"halves {number}", "interactive", "halves", shape="half", cost=0.5)
    assert Counter(item.split()[0] for item in take(waiting, 60)) == {"squares": 20, "halves": 40}


def test_kinds_share_the_costs_by_weight() -> None:
    waiting = queue()
    for number in range(200):
        waiting.put(f"interactive {number}", "interactive", "a", shape="quarter", cost=0.25)
        waiting.put(f"job {number}", "job", "b", shape="square", cost=1)
    assert Counter(item.split()[0] for item in take(waiting, 99)) == {"interactive": 96, "job": 3}
    assert waiting.costs() == {"interactive": 26, "stream": 0, "job": 197}


def take_batch(queue: FairQueue[str], size: int) -> list[str]:
    """Take a batch of one shape. The first word of an item is its shape."""
    batch = take(queue, 1)
    while batch and len(batch) < size and (item := queue.take_like(batch[0].split()[0], size)) is not None:
        batch.append(item)
    return batch


def test_tenants_with_one_item_at_a_time_get_the_same_share_as_a_tenant_of_another_shape_with_many() -> None:
    """Four tenants send their next item as soon as the previous one is served. The fifth always has items waiting."""
    waiting, taken = queue(), Counter[str]()
    for _ in range(100):
        waiting.put("wide many", "stream", "many", shape="wide")
    for number in range(4):
        waiting.put(f"square {number}", "stream", f"tenant {number}", shape="square")
    for _ in range(50):
        for item in take_batch(waiting, 4):
            taken[item] += 1
            if item.startswith("square"):
                waiting.put(item, "stream", f"tenant {item.split()[1]}", shape="square")
    assert taken == {"wide many": 40, **{f"square {number}": 40 for number in range(4)}}


def serve(waiting: FairQueue[str], batches: int, senders: dict[str, tuple[Traffic, int]]) -> Counter[str]:
    """Keep items of each sender waiting, and return how many of each were served.

    A sender has the name "shape name", its traffic, and the number of its items that always wait.
    """
    served = Counter[str]()
    for name, (traffic, count) in senders.items():
        for _ in range(count):
            waiting.put(name, traffic, name, shape=name.split()[0])
    for _ in range(batches):
        for name in take_batch(waiting, 8):
            served[name] += 1
            waiting.put(name, senders[name][0], name, shape=name.split()[0])
    return served


def test_a_job_gains_nothing_if_its_images_have_the_shape_of_a_clients() -> None:
    """The client's images open many batches, and images of the job fill them."""
    served = serve(
        queue(), 500, {"wide client": ("interactive", 1), "square stream": ("stream", 50), "wide job": ("job", 50)}
    )
    assert served["square stream"] / served["wide job"] == pytest.approx(4, rel=0.03)


def test_a_tenant_gains_nothing_if_its_images_have_the_shape_of_another_tenants() -> None:
    """The modest tenant's images open batches, and images of the greedy tenant fill them."""
    others: dict[str, tuple[Traffic, int]] = {f"square {number}": ("interactive", 1) for number in range(20)}
    served = serve(queue(), 500, {**others, "wide modest": ("interactive", 1), "wide greedy": ("interactive", 50)})
    assert served["wide greedy"] == pytest.approx(served["square 0"], abs=9)  # at most a batch of 8 ahead of its turn


def test_a_tenant_that_was_idle_has_no_credit() -> None:
    waiting = queue()
    put(waiting, "stream", "a", 100)
    take(waiting, 50)
    put(waiting, "stream", "b", 20)
    assert Counter(item.split()[1][0] for item in take(waiting, 20)) == {"a": 10, "b": 10}


def test_the_newest_item_of_a_tenant_is_displaced_whatever_its_shape() -> None:
    waiting = queue(max_size=4)
    for number, shape in enumerate(["wide", "square", "wide", "tall"]):
        waiting.put(f"{shape}{number}", "interactive", "greedy", shape=shape, cost=0.5)
    assert waiting.put("first", "interactive", "modest", shape="tall") == "tall3"
    assert waiting.put("second", "interactive", "modest", shape="tall") == "wide2"
    assert waiting.costs()["interactive"] == 3
    assert [waiting.take_like("tall", 100) for _ in range(3)] == ["first", "second", None]


def test_unwanted_items_of_one_shape_leave_the_order_of_the_others() -> None:
    waiting = FairQueue[str](WEIGHTS, 9, lambda item: not item.startswith("wide"))
    for number, shape in enumerate(["wide", "square", "wide", "square"]):
        waiting.put(f"{shape}{number}", "stream", f"tenant {number}", shape=shape)
    assert waiting.take_like("wide", 100) is None
    assert waiting.sizes()["stream"] == 2
    assert take(waiting, 9) == ["square1", "square3"]


def test_the_items_of_one_tenant_keep_their_order_after_an_unwanted_item_is_removed() -> None:
    waiting = FairQueue[str](WEIGHTS, 9, lambda item: item != "wide0")
    for number, shape in enumerate(["wide", "square", "wide"]):
        waiting.put(f"{shape}{number}", "stream", "a", shape=shape)
    assert take(waiting, 9) == ["square1", "wide2"]


@pytest.mark.parametrize("seed", range(20))
def test_every_item_is_served_once_in_batches_of_one_shape(seed: int) -> None:
    """Items of random kinds, tenants and shapes arrive between the batches, and some of them become unwanted."""
    rng = random.Random(seed)
    unwanted = set[str]()
    waiting, accepted, served = FairQueue[str](WEIGHTS, 40, lambda item: item not in unwanted), set[str](), list[str]()
    for number in range(400):
        shape = rng.choice(["square", "square", "square", "wide", "tall"])
        item, traffic, tenant = f"{shape} {number}", rng.choice(list(WEIGHTS)), rng.choice("aaabcd")
        try:
            displaced = waiting.put(item, traffic, tenant, shape=shape, cost=rng.choice([0.5, 1.0]))
        except Overloaded:
            continue
        accepted.add(item)
        accepted.discard(displaced or "")
        if rng.random() < 0.1:
            unwanted.add(item)
        if rng.random() < 0.3:
            batch = take_batch(waiting, 4)
            assert len({item.split()[0] for item in batch}) <= 1
            served += batch
    while batch := take_batch(waiting, 4):
        served += batch
    assert sorted(served) == sorted(accepted - unwanted)
    assert (len(waiting), sum(waiting.costs().values())) == (0, 0)

from __future__ import annotations

import random
from contextlib import AbstractContextManager

import pytest

from serve_app.errors import Overloaded
from serve_app.overload.limits import WaitingRoom
from serve_app.overload.throttle import Throttle

FULL = Overloaded("preprocessor.slots: 64 pictures are in flight", limit="preprocessor.slots")


class Service:
    """Takes so many requests a second, whatever comes, for as long as is told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        turn = random.Random(0)
        self.throttle = Throttle(lambda: self.now_s, turn.random)

    def serve(self, *, capacity_per_s: int, offered_per_s: int, duration_s: int) -> tuple[float, float]:
        """Accepted and refused by the service itself, a second, in the second half of the time."""
        accepted = refused = 0
        for second in range(duration_s):
            left = capacity_per_s
            for _ in range(offered_per_s):
                self.now_s += 1 / offered_per_s
                try:
                    self.throttle.admit()
                except Overloaded:
                    continue
                self.throttle.observe(None if left > 0 else FULL)
                if second >= duration_s / 2:
                    accepted += left > 0
                    refused += left <= 0
                left -= 1
        return accepted / (duration_s / 2), refused / (duration_s / 2)


def test_below_its_capacity_nothing_is_refused() -> None:
    assert Service().serve(capacity_per_s=100, offered_per_s=99, duration_s=20) == (99, 0)


def test_at_five_times_its_capacity_the_service_is_full_and_refuses_little_itself() -> None:
    accepted, refused = Service().serve(capacity_per_s=100, offered_per_s=500, duration_s=40)
    assert accepted > 95
    assert refused < 70  # of 400


def test_after_an_overload_all_is_let_through_again() -> None:
    service = Service()
    service.serve(capacity_per_s=100, offered_per_s=500, duration_s=20)
    assert service.serve(capacity_per_s=100, offered_per_s=80, duration_s=10) == (80, 0)  # 5 s later


def test_a_service_that_takes_nothing_is_asked_now_and_then() -> None:
    service = Service()
    service.serve(capacity_per_s=0, offered_per_s=100, duration_s=20)
    service.now_s += 30
    service.throttle.admit()


def test_the_refusal_says_when_to_come_back() -> None:
    throttle = Throttle(lambda: 0.0, lambda: 0.0)
    throttle.observe(FULL)
    with pytest.raises(Overloaded) as refusal:
        throttle.admit()
    assert refusal.value.retry_after_s


def test_the_refusal_names_the_limit_that_the_service_named_last() -> None:
    throttle = Throttle(lambda: 0.0, lambda: 0.0)
    queue = Overloaded("batcher.max_queue_size: 128 pictures wait", limit="batcher.max_queue_size")
    for observed in (FULL, queue):
        throttle.observe(observed)
        throttle.observe(None)  # an accepted request does not change the reason
        with pytest.raises(Overloaded) as refusal:
            throttle.admit()
        assert (refusal.value.limit, refusal.value.detail) == (observed.limit, observed.detail)
        assert refusal.value is not observed  # else each raise would lengthen its traceback


class Room:
    """A waiting room before a service that serves so many a second, one after the other."""

    def __init__(self, seats: int) -> None:
        self.now_s = 0.0
        self.present: list[AbstractContextManager[None]] = []
        self.room = WaitingRoom(seats, lambda: self.now_s)

    def come(self, count: int, tenant: str = "") -> int:
        """How many were let in."""
        before = len(self.present)
        for _ in range(count):
            visit = self.room.enter(tenant)
            try:
                visit.__enter__()
            except Overloaded:
                break
            self.present.append(visit)
        return len(self.present) - before

    def serve(self, count: int, per_s: float) -> None:
        for _ in range(count):
            self.now_s += 1 / per_s
            self.present.pop(0).__exit__(None, None, None)


def test_a_burst_before_anything_is_known_is_let_in() -> None:
    assert Room(seats=4).come(100) == 100


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    room = Room(seats=4)
    room.come(40)
    room.serve(30, per_s=10)
    assert 10 + room.come(100) in {20, 21}  # who stay for 2 s


def test_as_many_as_there_are_seats_are_let_in_however_slow_it_is() -> None:
    room = Room(seats=30)
    room.come(40)
    room.serve(10, per_s=1)
    room.serve(30, per_s=1)
    assert room.come(100) == 30


def test_a_faster_service_lets_more_in() -> None:
    room = Room(seats=4)
    room.come(40)
    room.serve(30, per_s=10)
    for _ in range(20):
        room.come(100)
        room.serve(len(room.present) - 10, per_s=100)
    assert 10 + room.come(1000) in range(190, 211)


def test_a_service_that_was_slow_for_a_while_lets_more_in_again() -> None:
    room = Room(seats=64)
    room.come(128)
    room.serve(64, per_s=20)
    for _ in range(3000):  # as many as there are seats, never more
        room.serve(1, per_s=400)
        room.come(1)
    assert len(room.present) + room.come(1000) > 700


def test_a_refusal_of_the_waiting_room_names_the_setting() -> None:
    room = Room(seats=4)
    room.come(40)
    room.serve(30, per_s=10)
    room.come(100)
    with pytest.raises(Overloaded, match=r"^preprocessor\.slots: 2[01] pictures are in flight for 4 slots") as refusal:
        room.room.enter("").__enter__()
    assert refusal.value.limit == "preprocessor.slots"


def test_who_asks_for_too_much_has_nobody_else_refused() -> None:
    room = Room(seats=4)
    room.come(40, "greedy")
    room.serve(20, per_s=10)
    assert room.come(100, "greedy") == 0
    assert room.come(100, "modest") in {10, 11}  # half of the 20 who stay for 2 s, or one more

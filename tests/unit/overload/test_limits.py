from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from serve_app.errors import Overloaded
from serve_app.overload.limits import ConcurrencyLimit, WaitingRoom


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


def test_who_asks_for_too_much_has_nobody_else_refused() -> None:
    room = Room(seats=4)
    room.come(40, "greedy")
    room.serve(20, per_s=10)
    assert room.come(100, "greedy") == 0
    assert room.come(100, "modest") in {10, 11}  # half of the 20 who stay for 2 s, or one more


def test_a_refusal_of_the_waiting_room_names_the_setting() -> None:
    room = Room(seats=4)
    room.come(40)
    room.serve(30, per_s=10)
    room.come(100)
    with pytest.raises(Overloaded, match=r"^preprocessor\.slots: 2[01] pictures are in flight for 4 slots") as refusal:
        room.room.enter("").__enter__()
    assert refusal.value.limit == "preprocessor.slots"


def test_as_many_as_the_limit_says_are_in_flight_and_one_more_is_refused_by_its_name() -> None:
    limit = ConcurrencyLimit(2, "limits.max_requests", "2 requests are in flight")
    with limit.one(), limit.one():
        with pytest.raises(Overloaded) as refusal, limit.one():
            pass
        assert refusal.value.limit == "limits.max_requests"
        assert refusal.value.detail == "limits.max_requests: 2 requests are in flight"
    with limit.one(), limit.one():
        pass


def test_what_fails_is_no_longer_in_flight() -> None:
    limit = ConcurrencyLimit(1, "followers", "1 connection follows streams")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), limit.one():
            raise ZeroDivisionError

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from serve_app.errors import Overloaded
from serve_app.overload.limits import AdmissionLimit, ConcurrencyLimit


class Service:
    """A service behind an admission limit. It completes requests one after another."""

    def __init__(self, slots: int) -> None:
        self.now_s = 0.0
        self.in_flight: list[AbstractContextManager[None]] = []
        self.limit = AdmissionLimit(slots, lambda: self.now_s)

    def send(self, count: int, tenant: str = "") -> int:
        """Send requests until one is refused. Return how many were admitted."""
        before = len(self.in_flight)
        for _ in range(count):
            request = self.limit.enter(tenant)
            try:
                request.__enter__()
            except Overloaded:
                break
            self.in_flight.append(request)
        return len(self.in_flight) - before

    def complete(self, count: int, per_s: float) -> None:
        """Complete requests at this rate."""
        for _ in range(count):
            self.now_s += 1 / per_s
            self.in_flight.pop(0).__exit__(None, None, None)


def test_a_burst_is_admitted_before_the_throughput_is_known() -> None:
    assert Service(slots=4).send(100) == 100


def test_requests_that_would_wait_too_long_are_refused_at_once() -> None:
    service = Service(slots=4)
    service.send(40)
    service.complete(30, per_s=10)
    assert 10 + service.send(100) in {20, 21}  # as many requests as the service completes in 2 s, or one more


def test_a_slow_service_still_admits_one_request_per_slot() -> None:
    service = Service(slots=30)
    service.send(40)
    service.complete(10, per_s=1)
    service.complete(30, per_s=1)
    assert service.send(100) == 30


def test_a_faster_service_admits_more() -> None:
    service = Service(slots=4)
    service.send(40)
    service.complete(30, per_s=10)
    for _ in range(20):
        service.send(100)
        service.complete(len(service.in_flight) - 10, per_s=100)
    assert 10 + service.send(1000) in range(190, 211)


def test_a_service_that_recovers_admits_more_again() -> None:
    service = Service(slots=64)
    service.send(128)
    service.complete(64, per_s=20)
    for _ in range(3000):  # about 64 requests stay in flight, one for each slot
        service.complete(1, per_s=400)
        service.send(1)
    assert len(service.in_flight) + service.send(1000) > 700


def test_a_greedy_tenant_does_not_cause_refusals_of_others() -> None:
    service = Service(slots=4)
    service.send(40, "greedy")
    service.complete(20, per_s=10)
    assert service.send(100, "greedy") == 0
    assert service.send(100, "modest") in {10, 11}  # half of what the service completes in 2 s, or one more


def test_a_refusal_of_the_admission_limit_names_the_setting() -> None:
    service = Service(slots=4)
    service.send(40)
    service.complete(30, per_s=10)
    service.send(100)
    with pytest.raises(Overloaded, match=r"^preprocessor\.slots: 2[01] images are in flight for 4 slots") as refusal:
        service.limit.enter("").__enter__()
    assert refusal.value.limit == "preprocessor.slots"


def test_requests_above_the_concurrency_limit_are_refused_with_its_name() -> None:
    limit = ConcurrencyLimit(2, "limits.max_requests", "2 requests are in flight")
    with limit.one(), limit.one():
        with pytest.raises(Overloaded) as refusal, limit.one():
            pass
        assert refusal.value.limit == "limits.max_requests"
        assert refusal.value.detail == "limits.max_requests: 2 requests are in flight"
    with limit.one(), limit.one():
        pass


def test_a_failed_request_no_longer_counts() -> None:
    limit = ConcurrencyLimit(1, "followers", "1 connection follows streams")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), limit.one():
            raise ZeroDivisionError

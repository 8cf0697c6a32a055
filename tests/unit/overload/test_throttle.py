from __future__ import annotations

import random

import pytest

from serve_app.errors import Overloaded
from serve_app.overload.throttle import Throttle

FULL = Overloaded("preprocessor.slots: 64 images are in flight", limit="preprocessor.slots")


class Service:
    """A service with a fixed capacity, behind a throttle."""

    def __init__(self) -> None:
        self.now_s = 0.0
        rng = random.Random(0)
        self.throttle = Throttle(lambda: self.now_s, rng.random)

    def serve(self, *, capacity_per_s: int, offered_per_s: int, duration_s: int) -> tuple[float, float]:
        """Send requests for ``duration_s`` seconds, and return how many the service accepted and refused per second.

        Only the second half of this time is measured, because the throttle adapts in the first half. Refusals by the
        throttle are not included.
        """
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


def test_nothing_is_refused_below_the_capacity() -> None:
    assert Service().serve(capacity_per_s=100, offered_per_s=99, duration_s=20) == (99, 0)


def test_at_five_times_its_capacity_a_service_stays_busy_and_refuses_little_itself() -> None:
    accepted, refused = Service().serve(capacity_per_s=100, offered_per_s=500, duration_s=40)
    assert accepted > 95
    assert refused < 70  # of about 400 refusals per second


def test_everything_is_admitted_again_after_an_overload() -> None:
    service = Service()
    service.serve(capacity_per_s=100, offered_per_s=500, duration_s=20)
    # ``serve`` measures the rates from 5 s to 10 s after the overload.
    assert service.serve(capacity_per_s=100, offered_per_s=80, duration_s=10) == (80, 0)


def test_a_service_that_accepts_nothing_still_gets_some_requests() -> None:
    service = Service()
    service.serve(capacity_per_s=0, offered_per_s=100, duration_s=20)
    service.now_s += 30
    service.throttle.admit()


def test_a_refusal_says_when_to_retry() -> None:
    throttle = Throttle(lambda: 0.0, lambda: 0.0)
    throttle.observe(FULL)
    with pytest.raises(Overloaded) as refusal:
        throttle.admit()
    assert refusal.value.retry_after_s


def test_a_refusal_names_the_limit_of_the_services_latest_refusal() -> None:
    throttle = Throttle(lambda: 0.0, lambda: 0.0)
    queue = Overloaded("batcher.max_queue_size: 128 images wait", limit="batcher.max_queue_size")
    for observed in (FULL, queue):
        throttle.observe(observed)
        throttle.observe(None)  # an accepted request does not change the reason
        with pytest.raises(Overloaded) as refusal:
            throttle.admit()
        assert (refusal.value.limit, refusal.value.detail) == (observed.limit, observed.detail)
        assert refusal.value is not observed  # raising the same exception again would lengthen its traceback

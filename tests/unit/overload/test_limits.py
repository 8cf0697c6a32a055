from __future__ import annotations

import pytest

from serve_app.errors import Overloaded
from serve_app.overload.limits import ConcurrencyLimit


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

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from serve_app.jobs.active import ActiveJob
from serve_app.jobs.shares import Shares
from serve_app.jobs.store import Job
from serve_app.schemas.jobs import JobSpec


def work(job_id: str, owner: str | None = None, weight: float = 1.0) -> ActiveJob:
    spec = JobSpec.model_validate({"id": job_id, "source": {"type": "upload"}, "weight": weight})
    return ActiveJob(Job(spec, owner, "uploads", "running"))


def served(shares: Shares, works: list[ActiveJob], units: int, items: int = 32) -> Counter[str]:
    """Give this many units to these jobs, and count them by job."""
    count: Counter[str] = Counter()
    for _ in range(units):
        chosen = shares.choose(works)
        shares.charge(chosen, items)
        count[chosen.id] += 1
    return count


def test_jobs_of_an_owner_share_by_their_weights() -> None:
    works = [work("a", weight=1), work("b", weight=2), work("c", weight=5)]
    assert served(Shares(), works, 800) == {"a": 100, "b": 200, "c": 500}


def test_a_weight_that_spoils_the_shares_of_other_jobs_is_refused() -> None:
    works = [work("a", weight=1), work("b", weight=2), work("c", weight=0.001)]
    assert served(Shares(), works, 601)["b"] == 400
    with pytest.raises(ValidationError):  # the sums of shares would lose their small parts
        work("d", weight=1e-18)


def test_owners_share_equally_however_many_jobs_they_have() -> None:
    works = [work("a", "ann", weight=100), work("b", "ann", weight=100), work("c", "bob"), work("d")]
    assert served(Shares(), works, 600) == {"a": 100, "b": 100, "c": 200, "d": 200}


def test_the_share_counts_items_and_not_units() -> None:
    shares, small, large = Shares(), work("small"), work("large")
    items = {"small": 4, "large": 32}
    count: Counter[str] = Counter()
    for _ in range(900):
        chosen = shares.choose([small, large])
        shares.charge(chosen, items[chosen.id])
        count[chosen.id] += items[chosen.id]
    assert abs(count["small"] - count["large"]) <= 32


def test_a_job_that_comes_later_does_not_catch_up() -> None:
    shares, first, second = Shares(), work("first"), work("second")
    served(shares, [first], 1000)
    assert served(shares, [first, second], 100) == {"first": 50, "second": 50}


def test_an_owner_that_comes_later_does_not_catch_up() -> None:
    shares, first, second = Shares(), work("first", "ann"), work("second", "bob")
    served(shares, [first], 1000)
    assert served(shares, [first, second], 100) == {"first": 50, "second": 50}

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serve_app.errors import DeadlineExceeded, Overloaded, ReplicaDied, ReplicaGone, Unavailable
from serve_app.overload.retries import Retries

pytestmark = pytest.mark.anyio


def after(*failures: Exception) -> Callable[[float], Awaitable[str]]:
    """Return a function that raises these errors, one per call, and then returns an answer."""
    left = list(failures)

    async def attempt(left_s: float) -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return attempt


async def test_a_call_survives_the_death_of_its_replica() -> None:
    assert await Retries(in_flight=1).run(after(ReplicaDied("died"), ReplicaGone("gone")), 10) == "answer"


async def test_a_refusal_is_not_retried() -> None:
    with pytest.raises(Overloaded):
        await Retries(in_flight=1).run(after(Overloaded("full")), 10)


async def test_an_attempt_gets_the_time_that_is_left() -> None:
    times_left_s = []

    async def attempt(left_s: float) -> None:
        times_left_s.append(left_s)
        if len(times_left_s) < 3:
            raise ReplicaGone("gone")

    await Retries(in_flight=1).run(attempt, 10)
    assert 10 > times_left_s[0] > times_left_s[1] > times_left_s[2] > 0


async def test_the_deadline_ends_the_retries() -> None:
    async def never(left_s: float) -> None:
        await asyncio.Event().wait()

    async def gone(left_s: float) -> None:
        raise ReplicaGone("gone")

    for attempt in never, gone:
        with pytest.raises(DeadlineExceeded):
            await Retries(in_flight=1).run(attempt, 0.2)


async def test_deaths_without_answers_end_the_retries() -> None:
    retries = Retries(in_flight=2)
    with pytest.raises(Unavailable, match="faster than they answer"):
        await retries.run(after(*(ReplicaDied("died") for _ in range(9))), 60)
    with pytest.raises(Unavailable):  # the first call has used up the budget of retries
        await retries.run(after(ReplicaDied("died")), 60)
    for _ in range(5):
        await retries.run(after(), 60)
    assert await retries.run(after(ReplicaDied("died")), 60) == "answer"


async def test_waiting_for_a_replica_does_not_spend_the_budget() -> None:
    retries = Retries(in_flight=1)
    for _ in range(3):
        assert await retries.run(after(ReplicaGone("gone"), ReplicaGone("gone")), 60) == "answer"
    assert await retries.run(after(*(ReplicaDied("died") for _ in range(4))), 60) == "answer"

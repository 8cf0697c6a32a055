"""Tests of the calls of job runners through a Serve handle."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.deployments import job_supervisor
from serve_app.deployments.job_supervisor import ServeRunners
from serve_app.errors import ModelChanged, Overloaded, ReplicaDied, Unavailable
from serve_app.jobs.units import Item, Unit, UnitResult
from serve_app.schemas.jobs import JobSpec

pytestmark = pytest.mark.anyio

SPEC = JobSpec.model_validate({"id": "night", "source": {"type": "upload"}})
RESULT = UnitResult("night", 0, 1, ())
UNIT = Unit("night", 0, 1, 0, (Item("a.jpg"),))


class Response:
    """A fake response of a handle, which can be awaited and cancelled."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def __await__(self) -> Generator[Any, None, Any]:
        return self._get().__await__()

    async def _get(self) -> Any:
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception) and not isinstance(self.answer, ModelChanged):
            raise self.answer
        return self.answer


class RunnerHandle:
    """A fake handle of the JobRunner deployment."""

    deployment_name = "JobRunner"

    def __init__(self, answer: Any) -> None:
        self.response = Response(answer)
        self.run = self
        self.calls: list[tuple[Any, ...]] = []

    def remote(self, *args: Any) -> Response:
        self.calls.append(args)
        return self.response


async def test_a_unit_goes_to_a_runner() -> None:
    handle = RunnerHandle(RESULT)
    assert await ServeRunners("sightline", handle).run(UNIT, SPEC, "v1") == RESULT
    assert handle.calls == [(UNIT, SPEC, "v1")]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ActorDiedError(), ReplicaDied),
        (ActorUnavailableError("gone", None), ReplicaDied),
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), Overloaded),
        (DeploymentUnavailableError(None), Unavailable),
        (ModelChanged("it was changed"), ModelChanged),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
async def test_a_failed_call_is_an_error_of_ours(answer: Exception, error: type[Exception]) -> None:
    with pytest.raises(error):
        await ServeRunners("sightline", RunnerHandle(answer)).run(UNIT, SPEC, None)


async def test_a_cancelled_call_is_cancelled_at_the_runner() -> None:
    handle = RunnerHandle(None)
    call = asyncio.create_task(ServeRunners("sightline", handle).run(UNIT, SPEC, None))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert handle.response.is_cancelled


async def test_each_runner_that_may_exist_works_on_two_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_supervisor, "max_replica_count", lambda application, deployment: 3)
    runners = ServeRunners("sightline", RunnerHandle(None))
    assert await runners.max_units() == 6


async def test_the_number_of_units_is_known_while_the_controller_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(application: str, deployment: str) -> int:
        raise RuntimeError("the controller is dead")

    monkeypatch.setattr(job_supervisor, "max_replica_count", fail)
    assert await ServeRunners("sightline", RunnerHandle(None)).max_units() == 2

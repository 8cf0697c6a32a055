"""The calls that the HTTP API makes to a supervisor, which may die during a call."""

from __future__ import annotations

import asyncio
from typing import ParamSpec, TypeVar

from ray.serve.handle import DeploymentHandle

from serve_app.deployments.handles import Replicas, StubMethod
from serve_app.deployments.stubs import SUPERVISOR_MAX_CALLS
from serve_app.errors import DeadlineExceeded, Unavailable
from serve_app.overload.retries import Retries

P = ParamSpec("P")
T = TypeVar("T")


class SupervisorCalls:
    """Calls a supervisor's methods.

    If the supervisor dies during a call of ``repeat``, the call is retried. ``once`` is for calls that must not be made
    twice. Both raise Unavailable after ``timeout_s``.
    """

    def __init__(self, supervisor: DeploymentHandle, name: str) -> None:
        """Prepare the calls. ``name`` names the supervisor in errors."""
        self._supervisor = Replicas(supervisor)
        self._name = name
        self._retries = Retries(in_flight=SUPERVISOR_MAX_CALLS)

    async def repeat(self, timeout_s: float, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method, and call it again if the supervisor dies."""
        try:
            return await self._retries.run(lambda _: self._supervisor.call(method, *args, **kwargs), timeout_s)
        except DeadlineExceeded as exc:
            raise self._no_answer() from exc

    async def once(self, timeout_s: float, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method at most once."""
        try:
            return await asyncio.wait_for(self._supervisor.call(method, *args, **kwargs), timeout_s)
        except TimeoutError as exc:
            raise self._no_answer() from exc

    def _no_answer(self) -> Unavailable:
        return Unavailable(f"the {self._name} does not answer; retry later")

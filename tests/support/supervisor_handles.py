"""A fake handle of a supervisor that dies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.exceptions import RayActorError


class SupervisorHandle:
    """A fake handle whose first ``deaths`` calls raise RayActorError. Later calls return the method's name."""

    app_name, deployment_name = "sightline", "Supervisor"

    def __init__(self, deaths: float) -> None:
        self.deaths, self.calls = deaths, 0

    def _init(self, **options: Any) -> None:
        pass

    def __getattr__(self, method: str) -> Any:
        async def remote(*args: Any, **options: Any) -> str:
            self.calls += 1
            if self.calls <= self.deaths:
                raise RayActorError
            return method

        return SimpleNamespace(remote=remote)

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from serve_app.deployments import supervisor_proxy
from serve_app.deployments.supervisor_proxy import SupervisorProxy
from serve_app.errors import Unavailable

pytestmark = pytest.mark.anyio


class SupervisorHandle:
    """A fake handle whose first ``deaths`` calls raise RayActorError. Later calls return the method's name."""

    app_name, deployment_name = "sightline", "StreamSupervisor"

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


READS: dict[str, tuple[Any, ...]] = {
    "all": (), "status": ("lot",), "regions": ("lot",), "events": ("lot", None, 0.0), "snapshot": ("lot", None, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("method", READS)
async def test_reads_are_retried_when_the_supervisor_dies(method: str) -> None:
    client = SupervisorProxy(SupervisorHandle(deaths=3))
    options = {"boxes": True} if method == "snapshot" else {}
    assert await getattr(client, method)(*READS[method], **options) == method


@pytest.mark.parametrize("method", ["create", "replace", "delete", "pause", "resume"])
async def test_changes_are_not_retried(method: str) -> None:
    handle = SupervisorHandle(deaths=1)
    with pytest.raises(Unavailable):
        await getattr(SupervisorProxy(handle), method)("lot")
    assert handle.calls == 1


async def test_a_supervisor_that_never_answers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_proxy, "_TIMEOUT_S", 0.2)
    with pytest.raises(Unavailable, match="the stream supervisor does not answer"):
        await SupervisorProxy(SupervisorHandle(deaths=float("inf"))).status("lot")

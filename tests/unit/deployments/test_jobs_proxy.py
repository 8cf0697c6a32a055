from __future__ import annotations

from typing import Any

import pytest

from serve_app.api.backend import Jobs
from serve_app.deployments import jobs_proxy
from serve_app.deployments.handles import stub_methods
from serve_app.deployments.jobs_proxy import JobsProxy
from serve_app.errors import Unavailable
from serve_app.schemas.jobs import JobSpec, Retry
from serve_app.types import Principal
from tests.support.supervisor_handles import SupervisorHandle

pytestmark = pytest.mark.anyio


WHO = Principal("ann", is_admin=False)
SPEC = JobSpec.model_validate({"id": "night", "source": {"type": "upload"}})
REPEATED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "put": ((SPEC, WHO), {}),
    "all": ((WHO,), {"state": None, "tag": None, "after": None, "limit": 1}),
    "status": (("night", WHO), {}),
    "items": (("night", WHO), {"state": None, "after": None, "limit": 1}),
    "results": (("night", WHO, "jsonl"), {}),
    "read_results": (("night", WHO, "jsonl", 0, 1), {}),
    "put_file": (("night", WHO, "a.jpg", 0, b""), {"last": True}),
    "picture": (("night", WHO, 0), {"boxes": True}),
    "events": (("night", WHO, None, 0.0), {}),
}
ONCE: dict[str, tuple[Any, ...]] = {
    "create": (SPEC, WHO), "cancel": ("night", WHO), "pause": ("night", WHO), "resume": ("night", WHO),
    "retry": ("night", WHO, Retry()), "delete": ("night", WHO), "set_owner": ("night", WHO, "bob"),
    "start": ("night", WHO),
}  # fmt: skip


def test_every_method_is_in_one_of_the_two_groups() -> None:
    assert {*REPEATED, *ONCE} == set(stub_methods(Jobs))


@pytest.mark.parametrize("method", REPEATED)
async def test_calls_that_may_be_repeated_are_retried_when_the_supervisor_dies(method: str) -> None:
    args, options = REPEATED[method]
    handle = SupervisorHandle(deaths=3)
    await getattr(JobsProxy(handle), method)(*args, **options)
    assert handle.calls == 4


@pytest.mark.parametrize("method", ONCE)
async def test_changes_are_not_retried(method: str) -> None:
    handle = SupervisorHandle(deaths=1)
    with pytest.raises(Unavailable):
        await getattr(JobsProxy(handle), method)(*ONCE[method])
    assert handle.calls == 1


async def test_a_supervisor_that_never_answers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_proxy, "_TIMEOUT_S", 0.2)
    with pytest.raises(Unavailable, match="the job supervisor does not answer"):
        await JobsProxy(SupervisorHandle(deaths=float("inf"))).status("night", WHO)

from __future__ import annotations

from typing import Any

import pytest

from serve_app.deployments import supervisor_proxy
from serve_app.deployments.supervisor_proxy import SupervisorProxy
from serve_app.errors import Unavailable
from tests.support.principals import LOCAL
from tests.support.supervisor_handles import SupervisorHandle

pytestmark = pytest.mark.anyio


READS: dict[str, tuple[Any, ...]] = {
    "all": (LOCAL,),
    "status": ("lot", LOCAL),
    "regions": ("lot", LOCAL),
    "events": ("lot", LOCAL, None, 0.0),
    "snapshot": ("lot", LOCAL, None, 0.0),
}


@pytest.mark.parametrize("method", READS)
async def test_reads_are_retried_when_the_supervisor_dies(method: str) -> None:
    client = SupervisorProxy(SupervisorHandle(deaths=3))
    options = {"boxes": True} if method == "snapshot" else {}
    assert await getattr(client, method)(*READS[method], **options) == method


@pytest.mark.parametrize("method", ["create", "replace", "delete", "pause", "resume"])
async def test_changes_are_not_retried(method: str) -> None:
    handle = SupervisorHandle(deaths=1)
    with pytest.raises(Unavailable):
        await getattr(SupervisorProxy(handle), method)("lot", LOCAL)
    assert handle.calls == 1


async def test_a_change_with_a_value_is_not_retried() -> None:
    handle = SupervisorHandle(deaths=1)
    with pytest.raises(Unavailable):
        await SupervisorProxy(handle).set_owner("lot", LOCAL, "dock")
    assert handle.calls == 1


async def test_a_supervisor_that_never_answers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_proxy, "_TIMEOUT_S", 0.2)
    with pytest.raises(Unavailable, match="the stream supervisor does not answer"):
        await SupervisorProxy(SupervisorHandle(deaths=float("inf"))).status("lot", LOCAL)

"""The route ``GET /overview``."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.errors import Unavailable
from serve_app.schemas.jobs import JobSpec
from serve_app.schemas.streams import StreamSpec
from tests.support.api import STREAM, Keys, build, client_of
from tests.support.fake_drift import FakeDrift
from tests.support.fake_jobs import FakeJobs
from tests.support.fakes import FakeBackend, FakeStreams
from tests.support.principals import DOCK

pytestmark = pytest.mark.anyio

JOB = {"id": "night", "source": {"type": "files", "path": "night"}}


@pytest.fixture
async def parts() -> tuple[FakeStreams, FakeJobs, FakeDrift]:
    """Return a stream and a job of the key ``dock``, and the drift of the stream and of all sources."""
    streams, jobs = FakeStreams(), FakeJobs()
    await streams.create(StreamSpec.model_validate(STREAM), DOCK)
    await jobs.create(JobSpec.model_validate(JOB), DOCK)
    return streams, jobs, FakeDrift("all", "stream/lot", "key/yard")


async def test_the_overview_shows_models_refusals_streams_jobs_and_drift(
    parts: tuple[FakeStreams, FakeJobs, FakeDrift],
) -> None:
    streams, jobs, drift = parts
    async with client_of(build(streams=streams, jobs=jobs, drift=drift)) as client:
        shown = (await client.get("/overview")).json()
        models = (await client.get("/models")).json()["models"]
    assert shown["models"][0]["status"] == models[0]
    assert shown["refusals"] == [{"code": "not_found", "limit": "", "count": 3}]
    assert (shown["streams"], shown["jobs"]) == ({"running": 1}, {"queued": 1})
    assert sum(shown["drift"]["states"].values()) == 3
    assert shown["replicas"] == {"Ingress": 1}


async def test_a_key_sees_only_what_it_owns_and_has_the_permission_for(
    parts: tuple[FakeStreams, FakeJobs, FakeDrift], tmp_path: Path
) -> None:
    streams, jobs, drift = parts
    keys = Keys(tmp_path / "keys.yaml")
    everything = ("detect", "streams", "jobs")
    headers = {name: keys.add(name, *everything) for name in ("dock", "yard")}
    headers |= {"admin": keys.add("boss", "admin"), "detect": keys.add("cam", "detect")}
    async with client_of(build(keys=keys, streams=streams, jobs=jobs, drift=drift)) as client:
        shown = {name: (await client.get("/overview", headers=header)).json() for name, header in headers.items()}
    found = {name: (one["streams"], one["jobs"], sum(one["drift"]["states"].values())) for name, one in shown.items()}
    assert found == {
        "dock": ({"running": 1}, {"queued": 1}, 1),
        "yard": ({}, {}, 1),
        "admin": ({"running": 1}, {"queued": 1}, 3),
        "detect": (None, None, 0),
    }


async def test_only_admin_sees_the_address_of_rays_dashboard(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    shown = {}
    headers = {"admin": keys.add("boss", "admin"), "rest": keys.add("dock", "detect", "streams", "jobs")}
    async with client_of(build(keys=keys)) as client:
        for name, header in headers.items():
            shown[name] = (await client.get("/overview", headers=header)).json()["dashboard_url"]
    assert shown == {"admin": FakeBackend().dashboard_url(), "rest": None}


async def test_a_part_that_cannot_be_read_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise Unavailable("the supervisor does not answer")

    monkeypatch.setattr(FakeStreams, "states", fail)
    monkeypatch.setattr(FakeJobs, "all", fail)
    monkeypatch.setattr(FakeDrift, "sources", fail)
    async with client_of(build(FakeBackend())) as client:
        response = await client.get("/overview")
    shown = response.json()
    assert (response.status_code, shown["streams"], shown["jobs"], shown["drift"]) == (200, None, None, None)

"""Tests of the routes below ``/drift``."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.errors import Unavailable
from tests.support.api import STREAM, Keys, build, client_of, is_error
from tests.support.fake_drift import FakeDrift
from tests.support.fakes import FakeStreams

pytestmark = pytest.mark.anyio

SOURCES = ("all", "http", "jobs", "key/dock", "key/yard", "stream/gate", "stream/lot")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.yaml")


async def visible(keys: Keys, header: dict[str, str], drift: FakeDrift, streams: FakeStreams) -> list[str]:
    async with client_of(build(keys=keys, drift=drift, streams=streams)) as client:
        answer = await client.get("/drift", headers=header)
        return [one["source"] for one in answer.json()["sources"]]


async def test_a_key_sees_its_own_requests_and_streams_and_an_administrator_everything(keys: Keys) -> None:
    drift, streams = FakeDrift(*SOURCES), FakeStreams()
    dock = keys.add("dock", "detect", "streams")
    async with client_of(build(keys=keys, drift=drift, streams=streams)) as client:
        await client.post("/streams", json=STREAM, headers=dock)
    assert await visible(keys, dock, drift, streams) == ["key/dock", "stream/lot"]
    assert await visible(keys, keys.add("yard", "detect"), drift, streams) == ["key/yard"]
    assert await visible(keys, keys.add("yard", "detect", "streams"), drift, streams) == ["key/yard"]
    assert await visible(keys, keys.add("boss", "admin"), drift, streams) == list(SOURCES)


async def test_a_key_sees_the_histograms_of_its_own_sources_only(keys: Keys) -> None:
    dock = keys.add("dock", "detect")
    async with client_of(build(keys=keys, drift=FakeDrift(*SOURCES))) as client:
        own = await client.get("/drift/histograms", params={"source": "key/dock"}, headers=dock)
        assert own.json()["features"]["brightness"]["reference"] == [0.25, 0.75]
        details = set()
        for source in ("key/yard", "key/none"):
            answer = await client.get("/drift/histograms", params={"source": source}, headers=dock)
            assert is_error(answer, 404, "not_found")
            details.add(answer.json()["detail"].replace(source, ""))
        assert len(details) == 1


async def test_without_keys_everything_is_visible() -> None:
    async with client_of(build(drift=FakeDrift(*SOURCES))) as client:
        assert len((await client.get("/drift")).json()["sources"]) == len(SOURCES)


async def test_a_reference_is_set_to_a_range_of_time_or_to_a_file() -> None:
    drift = FakeDrift("stream/lot")
    async with client_of(build(drift=drift)) as client:
        saved = (await client.get("/drift/reference", params={"source": "stream/lot"})).json()
        for body in ({"since_at_s": 7.0}, {"reference": saved}):
            answer = await client.put("/drift/reference", json={"source": "stream/lot"} | body)
            assert answer.status_code == 200
        for body in ({}, {"since_at_s": 7.0, "reference": saved}, {"since_at_s": -1}, {"sinc": 1}):
            answer = await client.put("/drift/reference", json={"source": "stream/lot"} | body)
            assert is_error(answer, 422, "invalid_parameter")
        assert is_error(await client.put("/drift/reference", json={"source": "x", "since_at_s": 7}), 404, "not_found")
    assert [new.since_at_s for new in drift.set] == [7.0, None]


async def test_drift_is_unavailable_while_the_monitor_does_not_answer() -> None:
    drift = FakeDrift()
    drift.failure = Unavailable("the drift monitor does not answer; retry later")
    async with client_of(build(drift=drift)) as client:
        assert is_error(await client.get("/drift"), 503, "unavailable")

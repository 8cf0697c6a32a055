from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.support.api import STREAM, Keys, build, client_of, connect_to, is_error, served_with, statuses, until
from tests.support.fakes import FakeBackend, FakeMetrics

pytestmark = pytest.mark.anyio


async def test_the_request_rate_is_limited_and_a_refusal_says_when_to_retry(
    keyed: httpx.AsyncClient, keys: Keys, metrics: FakeMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    fast, slow = keys.add("fast", "detect", requests_per_s=4), keys.add("slow", "detect", requests_per_s=0.1)
    assert await statuses(keyed, fast, 5) == [200, 200, 200, 200, 429]
    assert await statuses(keyed, slow, 2) == [200, 429]
    refused = await keyed.post("/detect", content=b"1", headers=slow)
    assert is_error(refused, 429, "rate_limited", "access.requests_per_s")
    assert refused.headers["retry-after"] == "10"
    now_s += 1
    assert await statuses(keyed, fast, 5) == [200, 200, 200, 200, 429]
    assert await statuses(keyed, slow, 1) == [429]
    now_s += 9
    assert await statuses(keyed, slow, 2) == [200, 429]
    assert metrics.refusals == ["rate_limited"] * 6
    assert metrics.limits == ["access.requests_per_s"] * 6
    assert metrics.requests.count(("slow", "rate_limited")) == 4


async def test_only_keys_of_the_same_name_share_limits(keyed: httpx.AsyncClient, keys: Keys) -> None:
    old, new = (keys.add("dock", "detect", requests_per_s=0.01) for _ in range(2))
    other = keys.add("yard", "detect", requests_per_s=0.01)
    assert [await statuses(keyed, header, 1) for header in (old, new, other)] == [[200], [429], [200]]


async def test_a_changed_file_changes_only_the_limits_that_differ(keyed: httpx.AsyncClient, keys: Keys) -> None:
    dock = keys.add("dock", "detect", requests_per_s=0.01)
    assert await statuses(keyed, dock, 2) == [200, 429]
    keys.add("yard", "detect")
    assert await statuses(keyed, dock, 1) == [429]
    keys._entries[0]["requests_per_s"] = 0
    keys.save()
    assert await statuses(keyed, dock, 9) == [200] * 9


async def test_a_key_without_its_own_limits_uses_the_settings(backend: FakeBackend, keys: Keys) -> None:
    api = build(backend, keys, access={"requests_per_s": 0.01})
    async with client_of(api) as client:
        assert await statuses(client, keys.add("dock", "detect"), 2) == [200, 429]
        assert await statuses(client, keys.add("yard", "detect", requests_per_s=0), 3) == [200, 200, 200]
    async with client_of(build(backend, None, access={"requests_per_s": 0.01})) as client:
        assert await statuses(client, {}, 2) == [200, 429]
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize(("is_keyed", "status_code"), [(True, 429), (False, 200)])
async def test_a_key_may_have_32_requests_in_flight_by_default_and_unkeyed_clients_any_number(
    backend: FakeBackend, keys: Keys, is_keyed: bool, status_code: int
) -> None:
    header = keys.add("dock", "detect")
    async with client_of(build(backend, keys if is_keyed else None, limits={"deadline_s": 60})) as client:
        held = [asyncio.create_task(client.post("/detect", content=b"slow", headers=header)) for _ in range(32)]
        await until(lambda: len(backend.tenants) == 32)
        assert await statuses(client, header, 1) == [status_code]
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert await statuses(client, header, 1) == [200]


@pytest.mark.parametrize("end", ["answered", "client gone", "bug", "deadline"])
async def test_a_request_counts_as_in_flight_until_it_ends_in_any_way(
    backend: FakeBackend, keys: Keys, end: str
) -> None:
    header = keys.add("dock", "detect", concurrency=1)
    picture = {"answered": b"1", "client gone": b"slow", "bug": b"1", "deadline": b"slow"}[end]
    async with client_of(build(backend, keys, limits={"deadline_s": 0.2 if end == "deadline" else 60})) as client:
        for _ in range(3):
            backend.failure = RuntimeError("a bug") if end == "bug" else None
            calls_before = len(backend.tenants)

            def has_arrived(before: int = calls_before) -> bool:
                return len(backend.tenants) > before

            first = asyncio.create_task(client.post("/detect", content=picture, headers=header))
            await until(has_arrived)
            if end == "client gone":
                assert is_error(
                    await client.post("/detect", content=b"1", headers=header),
                    429,
                    "rate_limited",
                    "access.concurrency",
                )
                first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        backend.failure = None
        assert await statuses(client, header, 1) == [200]


@pytest.mark.parametrize("path", ["events", "preview.mjpeg"])
def test_a_follower_counts_as_in_flight_until_it_disconnects(keys: Keys, path: str) -> None:
    with served_with(keys, concurrency=1) as served:
        for _ in range(3):
            status_code = 429
            while status_code == 429:  # wait until the server notices that the previous follower has disconnected
                with served.http.stream("GET", f"/streams/lot/{path}") as response:
                    status_code = response.status_code
                    if status_code == 200:
                        assert is_error(served.http.get("/streams"), 429, "rate_limited", "access.concurrency")
            assert status_code == 200


def test_a_follower_no_longer_counts_once_its_stream_has_ended(keys: Keys) -> None:
    with served_with(keys, concurrency=2) as served:
        with served.http.stream("GET", "/streams/lot/events") as response:
            assert served.http.delete("/streams/lot").status_code == 204
            assert list(response.iter_lines())
        served.http.post("/streams", json=STREAM).raise_for_status()
        with (
            served.http.stream("GET", "/streams/lot/events") as follower,
            connect_to(served) as socket,
        ):
            assert follower.status_code == 200
            assert is_error(served.http.get("/streams"), 429, "rate_limited", "access.concurrency")
            assert socket.response.status_code == 101


async def test_a_request_in_flight_still_counts_after_its_key_was_removed_and_restored(
    backend: FakeBackend, keys: Keys
) -> None:
    header = keys.add("dock", "detect", concurrency=1)
    entries = keys._entries
    async with client_of(build(backend, keys, limits={"deadline_s": 60})) as client:
        first = asyncio.create_task(client.post("/detect", content=b"slow", headers=header))
        await until(lambda: backend.tenants)
        keys.clear()
        assert is_error(await client.post("/detect", content=b"1", headers=header), 401, "unauthorized")
        keys._entries = entries
        keys.save()
        assert is_error(
            await client.post("/detect", content=b"1", headers=header), 429, "rate_limited", "access.concurrency"
        )
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await statuses(client, header, 1) == [200]

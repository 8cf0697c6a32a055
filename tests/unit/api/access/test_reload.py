from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import httpx
import pytest

from serve_app.api.access import reload
from serve_app.api.access.keys import KeyFile
from serve_app.errors import ConfigError
from tests.support.api import Keys, build, is_error
from tests.support.fakes import FakeBackend, FakeMetrics

pytestmark = pytest.mark.anyio


async def test_a_changed_file_takes_effect_without_a_restart(keyed: httpx.AsyncClient, keys: Keys) -> None:
    first = keys.add("dock", "detect")
    assert (await keyed.post("/detect", content=b"1", headers=first)).status_code == 200
    second = keys.add("dock", "detect")
    assert (await keyed.post("/detect", content=b"1", headers=second)).status_code == 200
    assert (await keyed.post("/detect", content=b"1", headers=first)).status_code == 200
    keys.clear()
    for header in (first, second):
        assert is_error(await keyed.post("/detect", content=b"1", headers=header), 401, "unauthorized")


async def test_a_changed_file_takes_effect_while_the_event_loops_thread_pool_is_busy(
    keyed: httpx.AsyncClient, keys: Keys
) -> None:
    header = keys.add("dock", "detect")
    assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200
    release = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(release.wait)) for _ in range(100)]
    await asyncio.sleep(0)  # give the tasks a chance to start
    try:
        async with asyncio.timeout(10):
            keys.clear()
            assert is_error(await keyed.post("/detect", content=b"1", headers=header), 401, "unauthorized")
    finally:
        release.set()
        await asyncio.gather(*busy)


async def test_the_file_is_checked_at_most_once_per_interval(
    keyed: httpx.AsyncClient, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[KeyFile] = []

    def refresh(self: KeyFile) -> bool:
        checks.append(self)
        return False

    monkeypatch.setattr(KeyFile, "refresh", refresh)
    monkeypatch.setattr(reload, "_POLL_INTERVAL_S", 3600.0)
    await asyncio.gather(*(keyed.post("/detect", content=b"1", headers=keys.add("dock", "detect")) for _ in range(20)))
    assert len(checks) == 1


async def test_the_previous_keys_stay_and_an_error_is_logged_while_the_file_is_invalid(
    keyed: httpx.AsyncClient, keys: Keys, metrics: FakeMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    header = keys.add("dock", "detect")
    for _ in range(2):
        assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200
    caplog.clear()
    keys.path.write_text(f"- {header['Authorization']}")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200
        assert metrics.unreadable == 3
        assert [record.levelname for record in caplog.records if "access.keys_file" in record.message] == ["ERROR"]
        keys.save()
        assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200
    assert metrics.unreadable == 3
    assert "sl_" not in caplog.text


async def test_the_application_does_not_start_if_the_file_is_missing(backend: FakeBackend, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        build(access={"keys_file": str(tmp_path / "nowhere.yaml")})

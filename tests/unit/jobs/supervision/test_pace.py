"""Tests of a job's highest rate, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_runners import ADMIN, FakeRunners, ended, spec_of, supervision_of
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return BACKEND


async def test_a_job_is_not_faster_than_its_highest_rate(tmp_path: Path) -> None:
    runners = FakeRunners()
    loop = asyncio.get_running_loop()
    async with supervision_of(tmp_path, runners) as supervision:
        started_at_s = loop.time()
        await supervision.create(spec_of(tmp_path, 300, max_images_per_s=10), ADMIN)
        await ended(supervision)
        took_s = loop.time() - started_at_s
    last = len(runners.units[-1].items)
    assert (300 - last) / 10 <= took_s <= 300 / 10 + 5

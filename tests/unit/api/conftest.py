"""Fakes of the backend behind the HTTP interface."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.api import SharedApi, client_of
from tests.support.fake_jobs import FakeJobs
from tests.support.fakes import FakeBackend, FakeMetrics


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def metrics() -> FakeMetrics:
    return FakeMetrics()


@pytest.fixture(scope="package")
def shared_api() -> SharedApi:
    return SharedApi()


@pytest.fixture
def jobs(shared_api: SharedApi) -> FakeJobs:
    """Return the fake JobSupervisor without any jobs."""
    return shared_api.reset().jobs


@pytest.fixture
async def jobs_client(shared_api: SharedApi, jobs: FakeJobs) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of an API without API keys, whose jobs are ``jobs``."""
    async with client_of(shared_api.api) as client:
        yield client

"""Fakes of the backend behind the HTTP interface."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from tests.support.api import build, client_of
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
def api_of_jobs() -> tuple[FastAPI, FakeJobs]:
    """Return one API for all tests of jobs, because building it takes longer than a test."""
    jobs = FakeJobs()
    return build(jobs=jobs), jobs


@pytest.fixture
def jobs(api_of_jobs: tuple[FastAPI, FakeJobs]) -> FakeJobs:
    """Return the fake JobSupervisor without any jobs."""
    _, jobs = api_of_jobs
    vars(jobs).update(vars(FakeJobs()))
    return jobs


@pytest.fixture
async def jobs_client(api_of_jobs: tuple[FastAPI, FakeJobs], jobs: FakeJobs) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of an API without API keys, whose jobs are ``jobs``."""
    async with client_of(api_of_jobs[0]) as client:
        yield client

"""Jobs over a folder of images whose answers are known, in the application that ``service`` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serve_app.schemas.jobs import AT_REST
from serve_app.types import Json
from tests.integration.conftest import Service, delete_jobs, eventually
from tests.support import squares

PICTURES = 400


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save images of random squares."""
    folder = tmp_path_factory.mktemp("night")
    rng = np.random.default_rng(22)
    for number in range(PICTURES):
        cv2.imwrite(str(folder / f"{number:04}.png"), squares.picture(squares.random_squares(rng, 3)))
    return folder


@pytest.fixture(autouse=True)
def jobs(service: Service) -> Iterator[None]:
    """Delete all jobs at the end of a test."""
    yield
    delete_jobs(service)


def create(service: Service, folder: Path, **fields: Any) -> Json:
    """Create the job ``night`` over a folder, and return its status."""
    spec = {"id": "night", "source": {"type": "files", "path": str(folder)}} | fields
    with service.client() as client:
        response = client.post("/jobs", json=spec)
        assert response.status_code == 202, response.text
        status: Json = response.json()
        return status


def act(service: Service, action: str) -> Json:
    """Send ``cancel``, ``pause`` or ``resume``, and return the status."""
    with service.client() as client:
        response = client.post(f"/jobs/night/{action}")
        assert response.status_code == 202, response.text
        status: Json = response.json()
        return status


def status_when(service: Service, look: Callable[[Json], object]) -> Json:
    """Wait until ``look`` returns a true value for the status of the job, and return the status."""

    def found() -> Json | None:
        with service.client() as client:
            response = client.get("/jobs/night")
        status: Json = response.json()
        return status if response.status_code == 200 and look(status) else None

    status = eventually(found, what="a change of the job")
    assert status["items"] == sum(status[name] for name in ("succeeded", "failed", "waiting", "in_flight"))
    return status


def ended(service: Service) -> Json:
    """Wait until the job is at rest, and return its status."""
    return status_when(service, lambda status: status["state"] in AT_REST)


def results(service: Service) -> list[Json]:
    """Return all results of the job that are stored."""
    found: list[Json] = []
    after = None
    with service.client() as client:
        while True:
            query = {"limit": 1000} | ({} if after is None else {"after": after})
            page = client.get("/jobs/night/items", params=query).json()
            found += page["items"]
            if (after := page["next"]) is None:
                return found

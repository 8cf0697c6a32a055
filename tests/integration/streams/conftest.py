"""Fixtures for tests of streams, such as a video with numbered frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve_app.schemas.streams import StreamStatus
from tests.integration.conftest import Service, eventually, stream_status, workers
from tests.support.videos import save_video


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a video of 60 frames, with a duration of 3 s."""
    return save_video(tmp_path_factory.mktemp("videos") / "squares.avi", frames=60, fps=20)


def status_when(service: Service, look: str, **expected: Any) -> StreamStatus:
    """Wait until the stream's status has the ``expected`` values, and return the status."""

    def found() -> StreamStatus | None:
        try:
            status = stream_status(service.url)
        except httpx.HTTPStatusError:  # while the supervisor restarts
            return None
        return status if all(getattr(status, name) == value for name, value in expected.items()) else None

    return eventually(found, what=look)


def process_of_stream() -> psutil.Process:
    """Return the worker process of the only stream."""
    (process,) = eventually(lambda: workers("StreamWorker"), what="its process")
    return process


def kill(process: psutil.Process) -> None:
    """Kill a process, and wait until it is gone."""
    process.kill()
    process.wait(10)

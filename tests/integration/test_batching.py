from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from ray import serve

from scripts.launch import is_ready
from serve_app.app import build_app
from tests.integration.conftest import LONG_TIMEOUT_S, Service, eventually
from tests.support import squares


@pytest.fixture
def slow_url(service: Service) -> Iterator[str]:
    """Run a second application, whose engine takes as long for one image as for a batch of eight."""
    model = {"engine": "sleep"}
    serve.run(build_app({"model": model, "batcher": {"max_batch_size": 8}}), name="slow", route_prefix="/slow")
    url = f"{service.url}/slow"
    eventually(lambda: is_ready(url), what="readiness")
    yield url
    serve.delete("slow")


def test_batches_fill_while_the_engine_is_busy(slow_url: str) -> None:
    """Check that 32 concurrent clients lead to a mean batch size above 4, in images per execution."""

    async def run() -> list[int]:
        data = squares.encode(squares.picture([]))
        async with httpx.AsyncClient(timeout=LONG_TIMEOUT_S) as client:

            async def one_client() -> list[int]:
                return [(await client.post(f"{slow_url}/detect", content=data)).json()["batch_size"] for _ in range(10)]

            return [size for sizes in await asyncio.gather(*(one_client() for _ in range(32))) for size in sizes]

    sizes = asyncio.run(run())
    assert max(sizes) <= 8
    assert len(sizes) / sum(1 / size for size in sizes) > 4

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray import serve

from scripts.launch import is_ready
from serve_app.app import build_app
from tests.conftest import trusted
from tests.integration.conftest import LONG_TIMEOUT_S, Service, eventually, replicas
from tests.support import trapped


@pytest.fixture
def trap_url(service: Service, tmp_path: Path) -> Iterator[str]:
    """Run a second application, whose model crashes on some images and hangs on others."""
    model = trusted(trapped.save(tmp_path / "trapped.pt")) | {"engine": "torch", "image_size_px": trapped.SIZE_PX}
    streams = {"state_dir": str(tmp_path), "media_dirs": str(tmp_path)}
    serve.run(build_app({"model": model, "streams": streams}), name="trap", route_prefix="/trap")
    url = f"{service.url}/trap"
    eventually(lambda: is_ready(url), what="readiness")
    yield url
    serve.delete("trap")


def test_only_the_image_that_crashes_or_hangs_the_engine_is_refused(trap_url: str) -> None:
    async def post(client: httpx.AsyncClient, kind: str) -> tuple[int, str]:
        response = await client.post("/detect", content=trapped.picture(kind))
        return response.status_code, response.json().get("code", "")

    async def run() -> None:
        async with httpx.AsyncClient(base_url=trap_url, timeout=LONG_TIMEOUT_S) as client:
            kinds = ["harmless", "deadly", "harmless", "endless", "harmless"]
            first = await asyncio.gather(*(post(client, kind) for kind in kinds))
            assert first == [(422, "poison") if kind in {"deadly", "endless"} else (200, "") for kind in kinds]
            assert await post(client, "harmless") == (200, "")

    asyncio.run(run())


def test_without_a_detector_the_service_is_alive_but_not_ready(service: Service) -> None:
    (replica,) = replicas("Detector")
    replica.suspend()
    try:
        response = httpx.get(f"{service.url}/readyz", timeout=LONG_TIMEOUT_S)
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        assert httpx.get(f"{service.url}/livez", timeout=LONG_TIMEOUT_S).status_code == 200
    finally:
        replica.resume()
    eventually(lambda: is_ready(service.url), what="readiness")

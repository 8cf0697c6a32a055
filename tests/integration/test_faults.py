from __future__ import annotations

import asyncio
import signal

import httpx
import pytest

from scripts.server import is_ready
from tests import squares
from tests.integration.conftest import Service, eventually, replicas
from tests.squares import Square

PICTURE = squares.encode(squares.picture([Square("green", 12, 12)]))


@pytest.mark.parametrize("deployment", ["Detector", "Preprocessor", "Ingress"])
def test_a_killed_replica_comes_back_without_help(service: Service, deployment: str) -> None:
    (replica,) = replicas(deployment)

    async def run() -> list[httpx.Response | Exception]:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            under_way = [asyncio.create_task(client.post("/detect", content=PICTURE)) for _ in range(16)]
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            replica.send_signal(signal.SIGKILL)
            return await asyncio.gather(*under_way, return_exceptions=True)

    for response in asyncio.run(run()):  # lost or answered, but never answered wrongly
        if isinstance(response, httpx.Response) and response.status_code == 200:
            assert response.json()["count"] == 1
        elif deployment != "Ingress":  # whose own death Serve answers for, in words of its own
            assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    eventually(lambda: replica.pid not in {process.pid for process in replicas(deployment)}, what="its death")
    eventually(lambda: replicas(deployment), what="a new replica")

    def answers() -> bool:
        try:
            response = httpx.post(f"{service.url}/detect", content=PICTURE, timeout=30)
        except httpx.TransportError:
            return False
        return response.status_code == 200 and response.json()["count"] == 1

    eventually(answers, what="an answer")


def test_without_a_detector_the_service_lives_but_is_not_ready(service: Service) -> None:
    (replica,) = replicas("Detector")
    replica.suspend()
    try:
        response = httpx.get(f"{service.url}/readyz", timeout=30)
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        assert httpx.get(f"{service.url}/livez", timeout=30).status_code == 200
    finally:
        replica.resume()
    eventually(lambda: is_ready(service.url), what="readiness")

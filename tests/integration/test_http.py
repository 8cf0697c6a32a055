from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest

from serve_app.types import Json
from tests.integration.conftest import LONG_TIMEOUT_S, SLOTS, Service, eventually, metrics, replicas
from tests.support import squares
from tests.support.hostile import png_of
from tests.support.squares import LABELS, Square

GOOD = squares.encode(squares.picture([Square("red", 5, 10), Square("blue", 20, 10, 250)]))


def answer(body: Json) -> list[tuple[str, float, tuple[float, ...]]]:
    """Return the sorted detections of an answer. The service may return detections of equal confidence in any order."""
    return sorted(
        (found["label"], round(found["confidence"], 2), tuple(found["bbox"].values())) for found in body["detections"]
    )


def expected(drawn: list[Square], confidence: float, labels: tuple[str, ...] = LABELS) -> list[Any]:
    """Return the detections that the squares model must find in an image of these squares."""
    return sorted(
        (square.label, round(square.confidence, 2), tuple(map(float, square.box)))
        for square in drawn
        if square.confidence > confidence and square.label in labels
    )


def is_good(response: httpx.Response) -> bool:
    return response.status_code == 200 and answer(response.json()) == expected(
        [Square("red", 5, 10), Square("blue", 20, 10, 250)], 0.3
    )


def test_an_image_is_answered(service: Service) -> None:
    with service.client() as client:
        response = client.post("/detect", files={"file": GOOD}, headers={"X-Request-ID": "mine"})
    assert is_good(response)
    assert response.headers["x-request-id"] == response.json()["request_id"] == "mine"
    timing = response.json()["timing_ms"]
    assert timing["total"] >= sum(timing[stage] for stage in ("decode", "queue", "inference", "postprocess"))


def test_boxes_are_in_the_pixels_of_the_image(service: Service) -> None:
    large = squares.encode(squares.picture([Square("green", 7, 9)], scale=4))
    with service.client() as client:
        body = client.post("/detect", content=large).json()
    assert body["image"] == {"width": 1280, "height": 1280}
    assert body["detections"][0]["bbox"] == dict(zip(("x1", "y1", "x2", "y2"), (224, 288, 352, 416), strict=True))


def test_the_overview_has_the_counts_of_all_replicas(service: Service) -> None:
    with service.client() as client:

        def overview() -> Json:
            shown: Json = client.get("/overview").json()
            return shown

        before = overview()
        for _ in range(4):
            client.post("/detect", content=GOOD).raise_for_status()
        shown = eventually(
            lambda: now if (now := overview())["models"][0]["images"] >= before["models"][0]["images"] + 4 else None,
            what="the counts",
        )
        model = shown["models"][0]
        assert model["status"] == client.get("/models").json()["models"][0]
    assert model["replicas"] == len(replicas("Detector")) == shown["replicas"]["Detector"]
    grown = {
        stage: sum(shown["stages"][stage]["counts"]) - sum(before["stages"][stage]["counts"])
        for stage in shown["stages"]
    }
    assert grown.keys() == {"decode", "total"}
    assert min(grown.values()) >= 4
    assert shown["drift"] is not None


def test_several_images_are_answered_in_order_and_independently(service: Service) -> None:
    with service.client() as client:
        parts = [("file", GOOD), ("file", GOOD[:-30]), ("file", squares.encode(squares.picture([])))]
        first, second, third = client.post("/detect", files=parts).json()["results"]
    assert first["count"] == 2
    assert second["code"] == "undecodable"
    assert third["count"] == 0


def test_the_annotated_image_shows_the_boxes(service: Service) -> None:
    with service.client() as client:
        response = client.post("/detect", content=GOOD, headers={"Accept": "image/jpeg"})
    drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == (320, 320, 3)
    plain = squares.picture([Square("red", 5, 10), Square("blue", 20, 10, 250)])
    left, _, right, bottom = Square("red", 5, 10).box
    assert drawn[bottom, left:right].max(axis=1).mean() > 100  # the lower edge of the drawn box, on a black background
    assert np.abs(drawn[200:].astype(int) - plain[200:]).mean() < 3  # nothing is drawn below the boxes


def test_no_answer_belongs_to_another_image_or_other_thresholds(service: Service) -> None:
    """Let 64 clients send 400 requests. Each request has a different image, threshold and set of classes."""

    async def run() -> list[str]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=service.url, timeout=LONG_TIMEOUT_S, limits=limits) as client:
            results = await asyncio.gather(*(one_client(client, number) for number in range(64)))
        return [problem for problems in results for problem in problems]

    async def one_client(client: httpx.AsyncClient, number: int) -> list[str]:
        rng = np.random.default_rng(number)
        problems = []
        for _ in range(400 // 64 + 1):
            drawn = squares.random_squares(rng, int(rng.integers(0, 12)))
            scale = int(rng.integers(1, 4))
            # Brightness has 8 bits, so only some confidences are possible. The threshold lies halfway between two of
            # these confidences, so rounding cannot change the result.
            confidence = 8 * (int(rng.integers(230, 255)) + 0.5) / 255 - 7
            labels = tuple(str(label) for label in rng.choice(LABELS, int(rng.integers(1, 4)), replace=False))
            data = await asyncio.to_thread(squares.encode, squares.picture(drawn, scale))
            params: dict[str, Any] = {"confidence": confidence, "classes": labels}
            response = await client.post("/detect", params=params, content=data)
            wanted = expected([Square(s.label, s.column, s.row, s.brightness) for s in drawn], confidence, labels)
            wanted = [(label, value, tuple(side * scale for side in box)) for label, value, box in wanted]
            if response.status_code != 200 or answer(response.json()) != wanted:
                problems.append(f"client {number}: {response.status_code} {response.text[:300]} != {wanted}")
        return problems

    assert asyncio.run(run()) == []


HOSTILE: dict[str, tuple[Callable[[], dict[str, Any]], int, str]] = {
    "truncated JPEG": (
        lambda: {"content": squares.encode(squares.picture([]), ".jpg")[:-100]},
        422,
        "undecodable",
    ),
    "HTML page": (lambda: {"content": b"<!doctype html><title>no</title>"}, 415, "not_an_image"),
    "empty body": (lambda: {"content": b""}, 400, "malformed"),
    "200 megapixels": (lambda: {"content": png_of(20_000, 10_000)}, 413, "too_large"),
    "100 MB": (lambda: {"content": bytes(100_000_000)}, 413, "too_large"),
    "confidence=7": (lambda: {"content": GOOD, "params": {"confidence": 7}}, 422, "invalid_parameter"),
    "confidence=nan": (lambda: {"content": GOOD, "params": {"confidence": "nan"}}, 422, "invalid_parameter"),
    "unknown class": (lambda: {"content": GOOD, "params": {"classes": "unicorn"}}, 422, "invalid_parameter"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_gets_its_own_error(service: Service, name: str) -> None:
    request, status_code, code = HOSTILE[name]
    with service.client() as client:
        response = client.post("/detect", **request())
    assert (response.status_code, response.json()["code"]) == (status_code, code)
    assert response.headers["x-request-id"] == response.json()["request_id"]


def memory_bytes() -> int:
    return sum(
        process.memory_info().rss
        for deployment in ("Ingress", "Preprocessor", "Detector")
        for process in replicas(deployment)
    )


def test_hostile_input_affects_no_other_request_and_leaks_no_memory(service: Service) -> None:
    async def storm() -> list[bool]:
        async with httpx.AsyncClient(base_url=service.url, timeout=LONG_TIMEOUT_S) as client:

            async def hostile() -> None:
                for request, _, _ in HOSTILE.values():
                    await client.post("/detect", **request())

            async def healthy() -> list[bool]:
                return [is_good(await client.post("/detect", content=GOOD)) for _ in range(20)]

            results = await asyncio.gather(healthy(), hostile(), healthy(), hostile(), healthy())
        return [good for result in results if result for good in result]

    assert all(asyncio.run(storm()))  # in this first run, the memory use may still grow
    before = memory_bytes()
    for _ in range(3):
        assert all(asyncio.run(storm()))
    assert memory_bytes() - before < 40_000_000  # although 180 images and six bodies of 100 MB were sent


def test_clients_that_disconnect_leave_every_slot_free(service: Service) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient(base_url=service.url) as client:
            tasks = [asyncio.create_task(client.post("/detect", content=GOOD)) for _ in range(4 * SLOTS)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=LONG_TIMEOUT_S) as client:
            return await asyncio.gather(*(client.post("/detect", content=GOOD) for _ in range(SLOTS)))

    def all_are_served() -> bool:
        answers = asyncio.run(send())
        assert {answer.status_code for answer in answers} <= {200, 503}
        return all(map(is_good, answers))

    for _ in range(3):
        asyncio.run(leave())
    eventually(all_are_served, what="a free slot for every request")  # a busy server notices a disconnect late


def test_metrics_count_images_classes_batches_and_stages(service: Service) -> None:
    with service.client() as client:
        client.post("/detect", content=GOOD)
        client.post("/detect", content=b"nothing")
        refused = client.post("/detect", content=png_of(20_000, 10_000)).json()
    # The Preprocessor sent the name of the limit to the Ingress, and the Ingress sent this name to the client.
    assert refused["limit"] == "limits.max_megapixels"
    wanted = {
        "ray_sightline_images_total{",
        'traffic="interactive"',
        "ray_sightline_refusals_total",
        'code="not_an_image"',
        'limit="limits.max_megapixels"',
        'label="red"',
        "ray_sightline_inferences_total",
        "ray_sightline_executions_total",
        "ray_sightline_batch_size_bucket",
        "ray_sightline_queue_size",
        *(f'stage="{stage}"' for stage in ("decode", "queue", "inference", "postprocess")),
    }
    eventually(lambda: not [part for text in [metrics()] for part in wanted if part not in text], what="every metric")


def test_the_ingress_loads_no_engine(service: Service) -> None:
    (ingress,) = replicas("Ingress")
    maps = {mapping.path for mapping in psutil.Process(ingress.pid).memory_maps()}
    assert not [path for path in maps if "torch" in path or "openvino" in path]

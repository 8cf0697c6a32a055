"""Tests that each answer belongs to the right image, frame and client, even under mixed load.

Each image and frame shows its own number in a QR code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from ray import serve

from scripts.codes import samples
from scripts.codes.scenes import Scene
from scripts.codes.score import Guess
from scripts.launch import is_ready
from serve_app.app import build_app
from serve_app.client import AsyncClient, DetectResult
from serve_app.images.drawing import encode_jpeg
from serve_app.schemas.streams import StreamResult
from tests.integration.conftest import Service, delete_stream, eventually, start_stream, stream_results, stream_status

CLIENTS, PICTURES_EACH = 8, 6
FRAMES = 60
BELTS = {"north": 0, "south": 5_003}  # the number of the first frame in each video; the videos have no common frame
RESULTS_EACH, RESULTS_EACH_IN_CHAOS = 25, 300
TIMEOUT_S = 600
NO_FIT_PX = 200.0  # boxes whose coordinates differ by more than this in total belong to different codes


@dataclass(frozen=True)
class Answer:
    """The answer to one image."""

    number: int
    guesses: tuple[Guess, ...]
    batch_size: int


@pytest.fixture(scope="module")
def codes_url(service: Service, stream_folders: dict[str, str]) -> Iterator[str]:
    """Run a second application with the embedded model and an engine that takes batches."""
    args = {"model": {"engine": "torch"}, "streams": stream_folders}
    serve.run(build_app(args), name="codes", route_prefix="/codes")
    url = f"{service.url}/codes"
    eventually(lambda: is_ready(url), what="readiness")
    yield url
    serve.delete("codes")


@pytest.fixture(scope="module")
def belts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a lossless video of each belt."""
    folder = tmp_path_factory.mktemp("belts")
    return {
        name: samples.save_video(folder / f"{name}.avi", map(samples.belt_frame, range(first, first + FRAMES)))
        for name, first in BELTS.items()
    }


@pytest.mark.only_with_chaos  # test_http and streams/test_results check the same with fewer images at once
def test_no_answer_is_given_to_the_wrong_picture_frame_or_client(
    codes_url: str, belts: dict[str, Path], chaos: bool
) -> None:
    results_each = RESULTS_EACH_IN_CHAOS if chaos else RESULTS_EACH
    pictures = {number: samples.picture(number) for number in range(CLIENTS * PICTURES_EACH)}
    encoded = {number: encode_jpeg(scene.pixels) for number, scene in pictures.items()}
    for name, path in belts.items():
        start_stream(codes_url, path, loop=True, stream_id=name)
    eventually(lambda: all(stream_status(codes_url, name).processed for name in belts), what="a result of each stream")
    results: list[StreamResult] = []
    answers: list[Answer] = []
    drawn: dict[int, bytes] = {}

    async def watch(name: str) -> None:
        results.extend(await asyncio.to_thread(stream_results, codes_url, results_each, name))

    async def post(client: AsyncClient, mine: range, streams: asyncio.Future[list[None]]) -> None:
        """Send a client's images one at a time, then all images in one request. Then request an annotated image.

        Repeat these requests while the streams run.
        """
        while not (streams.done() and mine[-1] in drawn):
            for number in mine:
                keep(number, await client.detect(encoded[number]))
            many = await client.detect_many([encoded[number] for number in mine])
            for number, result in zip(mine, many, strict=True):
                assert isinstance(result, DetectResult)
                keep(number, result)
            # Draw only the boxes of markers, because a box over a QR code would make the code unreadable.
            drawn[mine[-1]] = await client.annotate(encoded[mine[-1]], classes=["marker"])

    def keep(number: int, result: DetectResult) -> None:
        answers.append(Answer(number, tuple(map(Guess.of, result)), result.batch_size))

    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), AsyncClient(codes_url, timeout_s=TIMEOUT_S) as client:
            streams = asyncio.gather(*map(watch, belts))
            ranges = [range(n * PICTURES_EACH, (n + 1) * PICTURES_EACH) for n in range(CLIENTS)]
            await asyncio.gather(streams, *(post(client, mine, streams) for mine in ranges))

    asyncio.run(run())
    for name in belts:
        delete_stream(codes_url, name)
    assert max(answer.batch_size for answer in answers) > 1  # some batches had several images
    assert {answer.number for answer in answers} == set(pictures)
    wrong = [answer for answer in answers if best_match(answer.guesses, pictures) != answer.number]
    assert wrong == []
    assert min(len(answer.guesses) for answer in answers) >= 3  # enough to recognise an image

    reader = cv2.QRCodeDetector()
    for number, data in drawn.items():
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        boxes = [truth.box for truth in pictures[number].truths]
        assert f"image {number:06}" in samples.read_qr_codes(picture, boxes, reader)

    frames = {first + k: samples.belt_frame(first + k) for first in BELTS.values() for k in range(FRAMES)}
    numbers = {name: frame_numbers(path, reader) for name, path in belts.items()}
    assert len(results) == 2 * results_each
    for result in results:
        number = numbers[result.stream_id][result.frame_id % FRAMES]  # the number shown in the frame
        guesses = [Guess.of(found) for found in result.detections]
        assert len(guesses) >= 2
        assert best_match(guesses, frames) == number, f"{result.stream_id}, frame {result.frame_id}"


def best_match(guesses: Sequence[Guess], scenes: dict[int, Scene]) -> int:
    """Return the number of the scene whose codes match these detections best."""

    def misfit_px(scene: Scene, guess: Guess) -> float:
        codes = [truth.box for truth in (*scene.truths, *scene.cut) if truth.label == guess.label]
        return min((float(abs(np.subtract(box, guess.box)).sum()) for box in codes), default=NO_FIT_PX)

    def fit(scene: Scene) -> float:
        return -sum(min(misfit_px(scene, guess), NO_FIT_PX) for guess in guesses)

    return max(scenes, key=lambda number: fit(scenes[number]))


def frame_numbers(path: Path, reader: cv2.QRCodeDetector) -> list[int]:
    """Read the number in each frame's QR code with OpenCV, and infer the unreadable numbers from the others."""
    board = samples.belt_frame(0).truths[-1].box  # the board with the QR code does not move
    capture = cv2.VideoCapture(str(path))
    firsts = []
    for index in range(FRAMES):
        for payload in samples.read_qr_codes(capture.read()[1], [board], reader):
            firsts.append(int(payload.removeprefix("frame ")) - index)
    capture.release()
    assert len(firsts) > 0.9 * FRAMES
    assert len(set(firsts)) == 1
    return [firsts[0] + index for index in range(FRAMES)]

"""Models of several tasks in one application, over HTTP, in streams and in jobs, with images of known shapes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from ray import serve

from scripts.launch import is_ready
from scripts.shapes.scenes import Scene
from scripts.trials.cluster import Cluster
from scripts.trials.mixed import mix
from scripts.trials.reference import detections_of
from serve_app.app import build_app
from serve_app.types import Json
from tests.integration.conftest import Service, client_for, eventually
from tests.support import shapes

MODELS = {
    "segment": "default",
    "obb": "parcels",
    "pose": "points",
    "classify": "kinds",
}  # the name of each task's model
SCENES = 5


def images(task: str, count: int) -> list[Scene]:
    return shapes.portraits(count) if task == "classify" else shapes.scenes(count)


@pytest.fixture(scope="module")
def tried(service: Service) -> Iterator[Cluster]:
    """Run a second application, whose default model segments."""
    models: dict[str, Json] = {
        name: {
            "weights": str(shapes.weights(task)),
            "image_size_px": shapes.PORTRAIT_SIZE_PX if task == "classify" else shapes.SIZE_PX,
            "engine": "torch",  # it needs no export
            "threads": 1,
        }
        for task, name in MODELS.items()
    }
    args = {"model": models.pop("default"), "models": models, "streams": service.args["streams"]}
    serve.run(build_app(args), name="tasks", route_prefix="/tasks")
    cluster = Cluster(f"{service.url}/tasks", os.getpid())
    try:
        eventually(lambda: is_ready(cluster.url), what="readiness")
        yield cluster
    finally:
        serve.delete("tasks")


@pytest.mark.parametrize("task", MODELS)
def test_nearly_all_answers_are_right_in_every_detail(tried: Cluster, task: str) -> None:
    problems, true = [], 0
    with client_for(tried.url) as client:
        for image in images(task, SCENES):
            encoded = cv2.imencode(".png", image.pixels)[1].tobytes()
            answer = detections_of(client.detect(encoded, model=MODELS[task], mask="rle"))
            problems += shapes.disagreements(image, answer, task)
            true += 1 if task == "classify" else len(shapes.true_shapes(image, task))
    assert len(problems) <= 0.1 * true, problems


@pytest.mark.parametrize("task", ["segment", "obb", "pose"])
def test_a_photograph_with_an_exif_orientation_has_the_answer_of_the_upright_image(tried: Cluster, task: str) -> None:
    """A phone stores an image as its sensor sees it. Orientation 6 means: turn it by 90° clockwise."""
    orientation = Image.Exif()
    orientation[0x112] = 6
    image = shapes.scenes(1)[0]  # it is not square
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(image.pixels)[..., ::-1]))
    turned.save(stored := BytesIO(), "JPEG", quality=95, exif=orientation)
    pixels = cv2.imdecode(np.frombuffer(stored.getvalue(), np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert pixels is not None
    upright = cv2.imencode(".png", np.rot90(pixels, -1))[1].tobytes()
    with client_for(tried.url) as client:
        expected, found = (client.detect(one, model=MODELS[task], mask="rle") for one in (upright, stored.getvalue()))
    assert (found.image.height, found.image.width) == image.pixels.shape[:2]
    assert found.detections == expected.detections
    assert shapes.disagreements(image, detections_of(found), task) == []


def test_clients_streams_and_jobs_of_two_tasks_get_the_results_of_their_own_model(
    tried: Cluster, tmp_path: Path, chaos: bool
) -> None:
    pictures = {
        MODELS[task]: cv2.imencode(".jpg", images(task, 1)[0].pixels)[1].tobytes() for task in ("segment", "classify")
    }
    trial = mix(tried, tmp_path, pictures, 60 if chaos else 3, lambda _: None)
    assert trial.problems == []
    assert len(trial.answers) == len(pictures)

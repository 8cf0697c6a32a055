"""The Open Inference Protocol against the whole application. The right answers are those of Ultralytics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ultralytics.utils.nms import non_max_suppression

from scripts.shapes.dataset import describe, write_portraits, write_split
from scripts.shapes.scenes import scene
from serve_app.images.letterbox import letterbox
from serve_app.types import InputShape
from tests.integration.conftest import LONG_TIMEOUT_S, Service
from tests.parity.pictures import colourful
from tests.parity.untrained import save_untrained
from tests.support import shapes, squares
from tests.support.client_env import python_with
from tests.support.paths import ROOT
from tests.support.squares import Square

CLIENTS = 32
TRITON = ("tritonclient[http]==2.73.0", "kserve==0.21.0", "lap==0.5.13")  # Ultralytics tracks with lap
LENGTH = "Inference-Header-Content-Length"
MODEL = "/v2/models/squares"
# A program that asks the server with the clients of Triton and KServe, and prints what they read.
PROGRAM = """
import asyncio, json, sys
import numpy as np, tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
host, path = sys.argv[1:]
tensor = np.load(path)
client = triton.InferenceServerClient(host)
seen = {"ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready("squares")]}
seen["models"] = [one["name"] for one in client.get_model_repository_index()]
found = {}
for kind in ("FP32", "FP16"):
    given = triton.InferInput("images", list(tensor.shape), kind)
    given.set_data_from_numpy(tensor.astype({"FP32": np.float32, "FP16": np.float16}[kind]))
    for coding in (None, "gzip", "deflate"):
        for binary in (True, False):
            wanted = [triton.InferRequestedOutput("output0", binary_data=binary)]
            answer = client.infer("squares", [given], outputs=wanted, request_compression_algorithm=coding)
            found[f"{kind} {coding} {binary}"] = answer.as_numpy("output0").tolist()
async def ask_with_kserve():
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=180))
    given = InferInput("images", list(tensor.shape), "FP32")
    given.set_data_from_numpy(tensor, binary_data=True)
    answer = await client.infer(f"http://{host}", InferRequest("squares", [given]), model_name="squares")
    found["kserve"] = answer.outputs[0].as_numpy().tolist()
asyncio.run(ask_with_kserve())
seen["same"] = [name for name, one in found.items() if one == found["FP32 None True"]] == list(found)
with open(path.replace(".npy", ".png"), "rb") as file:
    encoded = np.array([file.read()] * 2, dtype=object)
given = triton.InferInput("image", [2], "BYTES")
given.set_data_from_numpy(encoded)
answer = client.infer("squares-image", [given], parameters={"confidence": 0.3})
seen["labels"] = [sorted(d["label"] for d in json.loads(one)["detections"]) for one in answer.as_numpy("detections")]
errors = []
other = triton.InferInput("images", list(tensor.shape), "FP32")
other.set_data_from_numpy(tensor * 0.5)
for model, given in (("nope", given), ("squares", other)):
    try:
        client.infer(model, [given])
    except triton.InferenceServerException as exc:
        errors.append(exc.message())
print(json.dumps(seen | {"errors": errors}))
"""


def as_tensor(picture: NDArray[np.uint8], side_px: int = squares.SIZE_PX) -> NDArray[np.float32]:
    """Return the model input that a client computes: letterboxed, RGB, from 0 to 1, ``(1, 3, side, side)``."""
    model_input = np.empty(InputShape.square(side_px).array, np.uint8)
    letterbox(picture, model_input)
    planes = np.ascontiguousarray(model_input[None, ..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32)
    return np.divide(planes, 255, out=planes)


def infer(service: Service, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the output for a tensor, sent as binary data."""
    data = tensor.tobytes()
    size = {"binary_data_size": len(data)}
    given = {"name": "images", "shape": tensor.shape, "datatype": "FP32", "parameters": size}
    text = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    with service.client() as client:
        response = client.post(f"{MODEL}/infer", content=text + data, headers={LENGTH: str(len(text))})
    assert response.status_code == 200, response.text
    length = int(response.headers[LENGTH])
    [output] = json.loads(response.content[:length])["outputs"]
    return np.frombuffer(response.content[length:], np.float32).reshape(output["shape"])


def boxes_of(output: NDArray[np.float32]) -> list[list[tuple[int, list[int]]]]:
    """Return the classes and rounded boxes that Ultralytics finds in each image of an output, sorted."""
    found = non_max_suppression(torch.from_numpy(output.copy()), 0.3, 0.7, nc=len(squares.LABELS))
    return [sorted((int(row[5]), [round(float(side)) for side in row[:4]]) for row in rows) for rows in found]


def test_a_client_finds_in_tensors_what_detect_finds(service: Service) -> None:
    pictures = [squares.picture([Square("red", 5, 10), Square("blue", 20, 10, 250)]), squares.picture([])]
    batch = np.concatenate([as_tensor(picture) for picture in [pictures[0], pictures[1], pictures[0]]])
    first, nothing, again = boxes_of(infer(service, batch))
    with service.client() as client:
        found = client.post("/detect?confidence=0.3", content=squares.encode(pictures[0])).json()["detections"]
    sides = ("x1", "y1", "x2", "y2")
    detected = sorted((one["class_id"], [round(one["bbox"][name]) for name in sides]) for one in found)
    assert first == again == detected
    assert nothing == []
    assert len(detected) == 2


def test_clients_at_once_get_their_own_answers(service: Service) -> None:
    drawn = [[Square("red", 2 + number % 8, 2 + number // 8)] for number in range(CLIENTS)]
    tensors = [as_tensor(squares.picture(one)) for one in drawn]
    alone = [boxes_of(infer(service, tensor)) for tensor in tensors]
    with ThreadPoolExecutor(CLIENTS) as threads:
        at_once = list(threads.map(lambda tensor: boxes_of(infer(service, tensor)), tensors))
    assert at_once == alone
    assert len({str(one) for one in alone}) == CLIENTS


@pytest.mark.only_with_clients
def test_the_clients_of_triton_and_kserve(service: Service, tmp_path: Path) -> None:
    picture = squares.picture([Square("red", 5, 10), Square("blue", 20, 10, 250)])
    (tmp_path / "a.png").write_bytes(squares.encode(picture))
    np.save(tmp_path / "a.npy", as_tensor(picture))
    command: list[str | Path] = [
        python_with("triton", *TRITON),
        "-c",
        PROGRAM,
        urlsplit(service.url).netloc,
        tmp_path / "a.npy",
    ]
    done = subprocess.run(command, check=True, timeout=LONG_TIMEOUT_S, capture_output=True, text=True)
    unknown, halved = (seen := json.loads(done.stdout.splitlines()[-1])).pop("errors")
    assert seen == {
        "ready": [True] * 3,
        "models": ["squares", "squares-image"],
        "same": True,
        "labels": [["blue", "red"]] * 2,
    }
    assert unknown == "no model is named 'nope'; use one of squares"
    assert "no multiples of 1/255" in halved


TASKS = ("classify", "obb", "pose", "segment")  # the squares model detects


@pytest.fixture(scope="module")
def end_to_end(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an untrained YOLO26n with an end-to-end head."""
    return save_untrained("yolo26n end-to-end", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def tasks(service: Service, end_to_end: Path) -> Iterator[Service]:
    """Serve a model for each task and the end-to-end head, and at the end the squares model again."""

    def model(weights: Path, size_px: int = shapes.SIZE_PX) -> dict[str, Any]:
        return {"weights": str(weights), "image_size_px": size_px, "precision": "fp32", "threads": 1}

    models = {task: model(shapes.weights(task)) for task in TASKS}
    models["classify"]["image_size_px"] = shapes.PORTRAIT_SIZE_PX
    service.deploy(service.args | {"models": models | {"end-to-end": model(end_to_end)}})
    yield service
    service.deploy()


def compare(
    mode: str, url: str, weights: Path | str, task: str, source: Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Compare Ultralytics' answers over HTTP with those of the same file. ``source`` depends on the mode."""
    python = python_with("triton", *TRITON)
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    program = ROOT / "tests/support/yolo_over_http.py"
    command: list[str | Path] = [sys.executable, program, packages, mode, url, weights, task, source]
    offline = {"YOLO_CONFIG_DIR": str(folder), "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    env = os.environ | offline | ({"MALLOC_PERTURB_": "255"} if mode == "val" else {})  # see README.md
    return subprocess.run(command, timeout=LONG_TIMEOUT_S, capture_output=True, text=True, env=env, cwd=folder)


def save_pictures(pictures: list[NDArray[np.uint8]], folder: Path) -> Path:
    """Save the images in a new folder, and return it."""
    folder.mkdir()
    for number, pixels in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return folder


def pictures_for(task: str) -> list[NDArray[np.uint8]]:
    """Return six images in which the task's model finds something."""
    if task == "detect":
        return [squares.picture(squares.random_squares(np.random.default_rng(seed), 9)) for seed in range(6)]
    return [image.pixels for image in (shapes.portraits(6) if task == "classify" else shapes.scenes(6))]


def answers_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return what the program has printed. Over HTTP, everything must be as with the file."""
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert [answer["difference"] for answer in answers if answer["difference"] >= 0.01] == []  # pixels, or parts of 1
    return answers


def squares_answers(service: Service, mode: str, source: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the answers for the squares model, which detects."""
    weights = service.args["model"]["weights"]
    return answers_of(compare(mode, f"{service.url}/squares", weights, "detect", source, folder))


def task_answers(tasks: Service, mode: str, task: str, source: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the answers for the model of another task."""
    return answers_of(compare(mode, f"{tasks.url}/{task}", shapes.weights(task), task, source, folder))


@pytest.mark.only_with_clients
def test_ultralytics_detects_over_http_what_it_detects_with_the_file(service: Service, tmp_path: Path) -> None:
    source = save_pictures(pictures_for("detect"), tmp_path / "pictures")
    (seen,) = squares_answers(service, "predict", source, tmp_path)
    assert seen["found"] >= 6


@pytest.mark.only_with_clients
@pytest.mark.parametrize("task", ["classify", "obb", "pose"])
def test_other_tasks_give_the_same_over_http_as_with_the_file(tasks: Service, task: str, tmp_path: Path) -> None:
    source = save_pictures(pictures_for(task), tmp_path / "pictures")
    (seen,) = task_answers(tasks, "predict", task, source, tmp_path)
    assert seen["found"] >= 6


@pytest.mark.only_with_clients
def test_an_end_to_end_head_gives_the_same_over_http_as_with_the_file(
    tasks: Service, end_to_end: Path, tmp_path: Path
) -> None:
    source = save_pictures([colourful()], tmp_path / "pictures")
    (seen,) = answers_of(compare("predict", f"{tasks.url}/end-to-end", end_to_end, "detect", source, tmp_path))
    assert seen["found"] >= 20


@pytest.mark.only_with_clients
def test_masks_are_refused_with_advice(tasks: Service, tmp_path: Path) -> None:
    source = save_pictures(pictures_for("segment"), tmp_path / "pictures")
    done = compare("predict", f"{tasks.url}/segment", shapes.weights("segment"), "segment", source, tmp_path)
    assert done.returncode != 0
    assert "send the encoded image to the model whose name ends in -image" in done.stderr


def save_frames(path: Path, frames: Iterable[NDArray[np.uint8]]) -> Path:
    """Save a lossless video of square frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 10, (squares.SIZE_PX, squares.SIZE_PX))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def moving_squares(number: int) -> list[Square]:
    """Return the squares of a frame: two that cross, one that dims at times, and one that is hidden for three frames.

    Their confidences begin at 0.4, so the trackers match some of them only in their second pass.
    """
    dim = Square("blue", 10, number % 30, 255 if number % 4 else 236)
    hidden = [] if number in range(8, 11) else [Square("red", 2 + number, 20)]
    return [Square("green", 2 + number, 4), Square("green", 30 - number, 10), dim, *hidden]


@pytest.mark.only_with_clients
def test_objects_are_tracked_over_http_as_with_the_file(service: Service, tmp_path: Path) -> None:
    video = save_frames(tmp_path / "a.avi", (squares.picture(moving_squares(number)) for number in range(25)))
    for seen in squares_answers(service, "track", video, tmp_path):
        assert len(seen["ids"]) >= 4


@pytest.mark.only_with_clients
@pytest.mark.parametrize("task", ["obb", "pose"])
def test_other_tasks_track_over_http_as_with_the_file(tasks: Service, task: str, tmp_path: Path) -> None:
    """The camera pans over a scene, so shapes appear and disappear."""
    wide = scene(np.random.default_rng(5), 3 * shapes.SIZE_PX, shapes.SIZE_PX).pixels
    video = save_frames(tmp_path / "a.avi", (wide[:, left : left + shapes.SIZE_PX] for left in range(0, 200, 8)))
    for seen in task_answers(tasks, "track", task, video, tmp_path):
        assert len(seen["ids"]) >= 3


def write_squares(folder: Path) -> Path:
    """Write a data set of 20 images for the squares model. Return the YAML file that describes it."""
    rng = np.random.default_rng(7)
    for part in ("images", "labels"):
        (folder / part / "val").mkdir(parents=True)
    for number in range(20):
        drawn = squares.random_squares(rng, 6)
        cv2.imwrite(str(folder / f"images/val/{number}.png"), squares.picture(drawn))
        side = squares.SIDE_PX / squares.SIZE_PX
        centres = (
            (squares.LABELS.index(one.label), one.box[0] / squares.SIZE_PX, one.box[1] / squares.SIZE_PX)
            for one in drawn
        )
        lines = [f"{label} {left + side / 2} {top + side / 2} {side} {side}\n" for label, left, top in centres]
        (folder / f"labels/val/{number}.txt").write_text("".join(lines))
    names = "".join(f"  {number}: {label}\n" for number, label in enumerate(squares.LABELS))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/val\nval: images/val\nnames:\n{names}")
    return folder / "data.yaml"


@pytest.mark.only_with_clients
@pytest.mark.parametrize("task", ["classify", "detect", "obb", "pose"])
def test_a_validation_over_http_scores_as_with_the_file(tasks: Service, task: str, tmp_path: Path) -> None:
    images = shapes.portraits(20) if task == "classify" else shapes.scenes(20)
    if task == "detect":
        data = write_squares(tmp_path)
    elif task == "classify":
        data = tmp_path / "data"
        for split in ("train", "val"):  # Ultralytics takes the names of the classes from the folders of "train"
            write_portraits(data / split, images)
    else:
        write_split(tmp_path, "val", task, images)
        data = describe(tmp_path, task)
    answers = squares_answers if task == "detect" else partial(task_answers, task=task)
    (seen,) = answers(tasks, mode="val", source=data, folder=tmp_path)
    assert seen["scores"]["metrics/accuracy_top1" if task == "classify" else "metrics/mAP50(B)"] > 0.8

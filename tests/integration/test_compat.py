"""The official clients of other servers, unmodified, against the whole application. The right answers are known."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import ray
from deepstack.core import DeepstackObject
from ultralytics_platform import APIError, Platform

from serve_app.types import Json
from tests.integration.conftest import BIN, LONG_TIMEOUT_S, Service, eventually, metrics
from tests.support import squares
from tests.support.client_env import python_with
from tests.support.squares import Square
from tests.support.videos import frame_of, save_video

DRAWN = [Square("red", 5, 10), Square("blue", 20, 10, 250)]
PICTURE = squares.encode(squares.picture(DRAWN))
# A program that asks the server with Roboflow's client, and prints what supervision reads from the answer.
ROBOFLOW = """
import json, sys
import supervision as sv
from inference_sdk import InferenceConfiguration, InferenceHTTPClient
url, picture = sys.argv[1:]
client = InferenceHTTPClient(api_url=url, api_key=None)
client.configure(InferenceConfiguration(confidence_threshold=0.3))
answer = client.infer(picture, model_id="squares")
several = client.infer([picture, picture], model_id="squares")
found = sv.Detections.from_inference(answer)
print(json.dumps({
    "names": found.data["class_name"].tolist(), "boxes": found.xyxy.tolist(), "several": len(several),
    "info": client.get_server_info().name, "models": [m.model_id for m in client.list_loaded_models().models],
}))
try:
    client.infer(picture, model_id="nope")
except Exception as exc:
    print(type(exc).__name__)
"""


def _text(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def detected(service: Service) -> list[tuple[str, list[int]]]:
    """Return the labels and the rounded boxes that ``POST /detect`` finds, sorted."""
    with service.client() as client:
        found = client.post("/detect?confidence=0.3", content=PICTURE).json()["detections"]
    return sorted((one["label"], [round(one["bbox"][name]) for name in ("x1", "y1", "x2", "y2")]) for one in found)


def test_a_deepstack_client_finds_what_detect_finds(service: Service) -> None:
    address = urlsplit(service.url)
    client = DeepstackObject(address.hostname, address.port, min_confidence=0.3, timeout=int(LONG_TIMEOUT_S))
    found = [
        (one["label"], [one[name] for name in ("x_min", "y_min", "x_max", "y_max")]) for one in client.detect(PICTURE)
    ]
    assert sorted(found) == detected(service)
    assert len(found) == len(DRAWN)


def test_the_platforms_sdk_finds_what_detect_finds(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    with Platform(api_key="any", base_url=service.url, timeout=LONG_TIMEOUT_S) as client, path.open("rb") as file:
        answer = client.models.predict("me", "local", "squares", body={"file": file, "conf": 0.3})
    results: list[Json] = answer["images"][0]["results"]  # type: ignore[assignment]  # of all tasks
    found = [(one["name"], [round(value) for value in one["box"].values()]) for one in results]
    assert sorted(found) == detected(service)
    assert answer["metadata"]["classNames"] == list(squares.LABELS)


def test_a_video_is_answered_frame_by_frame(service: Service, tmp_path: Path) -> None:
    """The position of the square in a frame is the number of the frame."""
    path = save_video(tmp_path / "a.avi", frames=40, fps=25)
    with Platform(api_key="any", base_url=service.url, timeout=LONG_TIMEOUT_S) as client:
        for stride, expected in ((1, list(range(40))), (3, list(range(2, 40, 3)))):
            body = {"file": path.open("rb"), "conf": 0.3, "vid_stride": stride}
            images: list[Json] = client.models.predict("me", "local", "squares", body=body)["images"]  # type: ignore[assignment]
            boxes = [one["results"][0]["box"] for one in images]
            assert [frame_of(box["x1"], box["y1"]) for box in boxes] == expected
        long = save_video(tmp_path / "b.avi", frames=301, fps=25)
        with pytest.raises(APIError, match="video_frames"):
            client.models.predict("me", "local", "squares", body={"file": long.open("rb")})


def test_the_command_of_the_platform_saves_labels(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    words = ["model=ul://me/local/squares", f"source={path}", "conf=0.3", "save_txt=True", f"project={tmp_path}"]
    variables = {
        "ULTRALYTICS_PLATFORM_URL": service.url,
        "ULTRALYTICS_API_KEY": "any",
        "YOLO_CONFIG_DIR": str(tmp_path),
    }
    command: list[str | Path] = [BIN / "ul", "cloud", "predict", *words]
    subprocess.run(command, check=True, timeout=LONG_TIMEOUT_S, cwd=tmp_path, env=os.environ | variables)
    (labels,) = tmp_path.rglob("labels/*.txt")
    assert len(labels.read_text().splitlines()) == len(DRAWN)


def test_a_key_in_the_query_reaches_no_log_and_no_metric(service: Service) -> None:
    secret = f"sl_{secrets.token_hex(16)}"
    with service.client() as client:
        for method, path in (("POST", "/infer/object_detection"), ("PUT", "/model/add"), ("HEAD", "/model/registry")):
            client.request(method, path, params={"api_key": secret})
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    eventually(lambda: "-- HEAD /model/registry 200" in _text(logs), within_s=30, what="the access log")
    assert secret not in _text(logs)
    assert secret not in metrics()


@pytest.mark.only_with_clients
def test_roboflows_client_finds_what_detect_finds(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    python = python_with("roboflow", "inference-sdk==1.8.3", "supervision<0.31")
    command: list[str | Path] = [python, "-c", ROBOFLOW, service.url, path]
    done = subprocess.run(command, check=True, timeout=LONG_TIMEOUT_S, capture_output=True, text=True)
    first, error = done.stdout.splitlines()[-2:]
    seen = json.loads(first)
    found = [(name, [round(value) for value in box]) for name, box in zip(seen["names"], seen["boxes"], strict=True)]
    # The client sends a JPEG, which changes the edges of the squares a little.
    assert [name for name, _ in sorted(found)] == [name for name, _ in detected(service)]
    assert (seen["several"], seen["info"], seen["models"]) == (2, "Sightline", ["squares"])
    assert error == "HTTPCallErrorError"

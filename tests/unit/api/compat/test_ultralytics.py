"""The protocol of the Ultralytics Platform, with the requests that its clients send."""

from __future__ import annotations

import base64
import re
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote_plus

import httpx
import numpy as np
import pytest
import torch
from ultralytics.engine.results import Results

from serve_app.api.compat.ultralytics import _summary
from serve_app.detections import Detections, Ranking
from serve_app.types import Answer, InputShape, Timing
from tests.support.api import Keys, build, client_of
from tests.support.fakes import FakeBackend

pytestmark = pytest.mark.anyio

SDK = "/api/models/me/local/codes/predict"
NAMES = {0: "cat", 1: "dog"}


async def test_the_answer_has_what_the_clients_read(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    for path in ("/predict", SDK):
        fields = {"conf": "0.3", "iou": "0.6", "imgsz": "640", "normalize": "false", "decimals": "3"}
        answer = (await client.post(path, data=fields, files={"file": ("a.jpg", b"12345", "image/jpeg")})).json()
        [image] = answer["images"]
        box = {"x1": 0.0, "y1": 0.0, "x2": 5.0, "y2": 10.0}
        assert image["results"] == [{"name": "dog", "class": 1, "confidence": 0.75, "box": box}]
        assert list(image["results"][0]["box"]) == ["x1", "y1", "x2", "y2"]
        assert image["shape"] == [10, 5]
        assert image["speed"] == {"preprocess": 1.0, "inference": 3.0, "postprocess": 4.0}
        metadata = answer["metadata"]
        assert (metadata["task"], metadata["classNames"], metadata["imageCount"]) == ("detect", ["cat", "dog"], 1)
    assert {(options.confidence, options.iou) for options in backend.options} == {(0.3, 0.6)}


async def test_the_defaults_are_those_of_the_platform(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    await client.post("/predict", files={"file": b"1"})
    assert (backend.options[0].confidence, backend.options[0].iou) == (0.25, 0.7)


async def test_boxes_can_be_normalised(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/predict", data={"normalize": "True"}, files={"file": b"12345"})).json()
    assert answer["images"][0]["results"][0]["box"] == {"x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0}


async def test_an_image_may_be_base64(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    for source in (base64.b64encode(b"12345").decode(), "data:image/jpeg;base64,MTIzNDU="):
        assert (await client.post("/predict", data={"source": source, "conf": 0.5})).status_code == 200
    assert backend.pictures == [b"12345"] * 2


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
@pytest.mark.parametrize("change", [str, str.lower])
async def test_base64_with_millions_of_escapes_needs_little_memory(
    client: httpx.AsyncClient, backend: FakeBackend, change: Callable[[str], str], prefix: str
) -> None:
    picture = bytes(range(248, 256)) * 100_000  # its base64 has many characters that are escaped
    encoded = re.sub("%..", lambda escape: change(escape[0]), quote_plus(prefix + base64.b64encode(picture).decode()))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    tracemalloc.start()
    response = await client.post("/predict", content=f"conf=0%2E5&source={encoded}", headers=headers)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert response.status_code == 200
    assert backend.pictures == [picture]
    assert [options.confidence for options in backend.options] == [0.5]
    assert most < 12 * len(encoded)


async def test_an_image_at_a_url_is_fetched_only_if_the_settings_allow_it(client: httpx.AsyncClient) -> None:
    refused = await client.post("/predict", data={"source": "https://site.example/a.jpg"})
    assert (refused.status_code, refused.json()["code"]) == (403, "urls_disabled")


async def test_the_limit_applies_to_the_decoded_image() -> None:
    async with client_of(build(limits={"max_body_mib": 1})) as client:
        for size, status_code in ((2**20, 200), (2**20 + 3, 413)):
            source = base64.b64encode(bytes(size)).decode()
            assert (await client.post("/predict", data={"source": source})).status_code == status_code


@pytest.mark.parametrize(
    ("fields", "files", "status_code"),
    [
        ({}, {"file": b"bad"}, 422),
        ({}, {"other": b"1"}, 400),
        ({"conf": "2"}, {"file": b"1"}, 400),
        ({"decimals": "x"}, {"file": b"1"}, 400),
        ({"source": "#"}, None, 400),
        ({}, None, 400),
    ],
)
async def test_a_bad_request_gets_an_error(
    client: httpx.AsyncClient, fields: dict[str, str], files: dict[str, bytes] | None, status_code: int
) -> None:
    refused = await client.post("/predict", data=fields, files=files)
    assert refused.status_code == status_code
    assert refused.json()["error"] == refused.json()["detail"]


async def test_the_key_is_a_bearer_token_and_an_unknown_model_gets_404(keyed: httpx.AsyncClient, keys: Keys) -> None:
    header, picture = keys.add("dock", "detect"), {"file": b"1"}
    assert (await keyed.post(SDK, files=picture, headers=header)).status_code == 200
    assert (await keyed.post(SDK, files=picture)).status_code == 401
    unknown = await keyed.post(SDK.replace("codes", "nope"), files=picture, headers=header)
    assert (unknown.status_code, "use one of codes, plates" in unknown.json()["error"]) == (404, True)


def answer_of(found: Detections, width_px: int = 200, height_px: int = 100) -> Answer:
    return Answer(found, width_px, height_px, "codes", 1, Timing(), InputShape.square(640))


def boxes() -> np.ndarray:
    return np.array([[10, 20, 60.5, 80, 0.875, 0], [1, 2, 3, 4, 0.5, 1]], np.float32)


def found_of(rows: np.ndarray, **fields: object) -> Detections:
    ids = rows[:, 5].astype(np.int32)
    return Detections(rows[:, :4], rows[:, 4], ids, tuple(NAMES[i] for i in ids.tolist()), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("normalize", [False, True])
def test_the_form_of_each_task_is_that_of_ultralytics(normalize: bool) -> None:
    """The expected values are what Ultralytics' own ``Results.summary`` returns for the same objects."""
    picture = np.zeros((100, 200, 3), np.uint8)
    rows, points = boxes(), np.array([[[11, 21, 0.9], [12, 22, 0.25]]] * 2, np.float32)
    rotated = np.array([[50, 40, 30, 10, 0.5], [20, 20, 8, 6, 0.25]], np.float32)
    scores = torch.from_numpy(rows[:, 4:6])
    turned = torch.cat([torch.from_numpy(rotated), scores], 1)
    top = Ranking(np.array([1, 0], np.int32), np.array([0.75, 0.25], np.float32), ("dog", "cat"))
    cases = [
        (Results(picture, "", NAMES, boxes=torch.from_numpy(rows)), found_of(rows)),
        (
            Results(picture, "", NAMES, boxes=torch.from_numpy(rows), keypoints=torch.from_numpy(points)),
            found_of(rows, keypoints=points),
        ),
        (Results(picture, "", NAMES, obb=turned), found_of(rows, rotated=rotated)),
        (
            Results(picture, "", NAMES, probs=torch.tensor([0.25, 0.75])),
            Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), (), classes=top),
        ),
    ]
    for results, found in cases:
        expected, actual = results.summary(normalize=normalize, decimals=3), _summary(answer_of(found), normalize, 3)
        assert [list(one) for one in actual] == [list(one) for one in expected]
        for one, other in zip(actual, expected, strict=True):
            assert (one["name"], one["class"]) == (other["name"], other["class"])
            for part in ("box", "keypoints"):
                assert list(one.get(part, {})) == list(other.get(part, {}))
                for name, value in other.get(part, {}).items():
                    assert one[part][name] == pytest.approx(value, abs=0.0011)


def test_outlines_are_segments() -> None:
    rings = [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0], [9.0, 9.0], [8.0, 1.0]]]
    [one] = _summary(answer_of(found_of(boxes()[:1], outlines=(rings,))), False, 5)
    assert one["segments"] == {"x": [1, 3, 5, 7, 9, 8], "y": [2, 4, 6, 8, 9, 1]}


@pytest.mark.parametrize(
    "file", [("a.mp4", b"12345", "application/octet-stream"), ("a", b"12345", "video/mp4"), ("A.MOV", b"12345")]
)
async def test_a_video_is_answered_frame_by_frame(client: httpx.AsyncClient, file: tuple[str, bytes]) -> None:
    """The fake backend takes each byte of a video for a frame."""
    for stride, frames in (("1", 5), ("2", 2)):
        answer = (await client.post("/predict", data={"vid_stride": stride}, files={"file": file})).json()
        assert (len(answer["images"]), answer["metadata"]["imageCount"]) == (frames, frames)
    assert (await client.post("/predict", data={"vid_stride": "0"}, files={"file": file})).status_code == 400

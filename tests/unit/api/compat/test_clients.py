"""The official clients of other servers, unmodified, against a real HTTP server with a fake backend."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from codeprojectai.core import CodeProjectAIException, CodeProjectAIObject
from deepstack.core import DeepstackException, DeepstackObject
from ultralytics_platform import APIError, Platform

from tests.support.api import Keys
from tests.support.stream_server import StreamServer, serve_streams
from tests.unit.api.compat.conftest import MODELS

HOST = "127.0.0.1"
CLIENTS = 32


@pytest.fixture(scope="module")
def served() -> Iterator[StreamServer]:
    """Run a server without API keys."""
    with serve_streams(MODELS) as running:
        yield running


@pytest.fixture(autouse=True)
def new_backend(served: StreamServer) -> None:
    vars(served.backend).update(failure=None, is_full=False, tenants=[])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StreamServer, str]]:
    """Run a server with an API key, and yield it and the key."""
    keys = Keys(tmp_path_factory.mktemp("keys") / "keys.yaml")
    key = keys.add("dock", "detect")["Authorization"].removeprefix("Bearer ")
    with serve_streams(MODELS | {"access": {"keys_file": str(keys.path)}}) as running:
        yield running, key


def test_deepstack_python(served: StreamServer) -> None:
    found = DeepstackObject(HOST, served.port, min_confidence=0.4).detect(b"12345")
    assert found == [{"label": "dog", "confidence": 0.75, "x_min": 0, "y_min": 0, "x_max": 5, "y_max": 10}]
    assert DeepstackObject(HOST, served.port, custom_model="plates").detect(b"123")[0]["x_max"] == 3
    with pytest.raises(DeepstackException, match="raised error 404"):
        DeepstackObject(HOST, served.port, custom_model="nope").detect(b"1")
    with pytest.raises(DeepstackException, match="status code: 400"):
        DeepstackObject(HOST, served.port).detect(b"bad")
    served.backend.is_full = True
    with pytest.raises(DeepstackException, match="status code: 503"):
        DeepstackObject(HOST, served.port).detect(b"1")


def test_deepstack_python_with_a_key(guarded: tuple[StreamServer, str]) -> None:
    server, key = guarded
    assert DeepstackObject(HOST, server.port, api_key=key).detect(b"12345")[0]["label"] == "dog"
    with pytest.raises(DeepstackException, match="status code: 401"):
        DeepstackObject(HOST, server.port, api_key="wrong").detect(b"1")
    with pytest.raises(CodeProjectAIException, match="401"):
        CodeProjectAIObject(HOST, server.port).detect(b"1")  # this client cannot send a key


def test_many_clients_with_keys_in_their_forms(guarded: tuple[StreamServer, str]) -> None:
    server, key = guarded
    before = len(server.backend.tenants)

    def detect(number: int) -> int:
        size = 100_000 + number
        return int(DeepstackObject(HOST, server.port, api_key=key).detect(bytes(size))[0]["x_max"]) - size

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert set(pool.map(detect, range(CLIENTS))) == {0}
    assert server.backend.tenants[before:] == ["dock"] * CLIENTS


def test_codeproject_ai_api(served: StreamServer) -> None:
    assert CodeProjectAIObject(HOST, served.port).detect(b"12345")[0]["x_max"] == 5
    assert CodeProjectAIObject(HOST, served.port, custom_model="codes").detect(b"12")[0]["x_max"] == 2
    with pytest.raises(CodeProjectAIException, match="404"):
        CodeProjectAIObject(HOST, served.port, custom_model="nope").detect(b"1")


def test_the_sdk_of_the_ultralytics_platform(served: StreamServer, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    with Platform(api_key="any", base_url=served.url) as client, (tmp_path / "a.jpg").open("rb") as file:
        answer = client.models.predict("me", "local", "codes", body={"file": file, "conf": 0.5, "normalize": False})
        assert answer["images"][0]["results"][0]["name"] == "dog"
        assert answer["metadata"]["task"] == "detect"
        assert client.models.predict("me", "local", "codes", body={"source": "MTIzNDU="})["images"][0]["shape"] == [
            10,
            5,
        ]
        for model, body, status_code in (("nope", {"source": "MTIz"}, 404), ("codes", {"source": "YmFk"}, 422)):
            with pytest.raises(APIError) as refused:
                client.models.predict("me", "local", model, body=body)
            assert refused.value.status_code == status_code
            assert refused.value.json["error"]


def test_the_sdk_of_the_ultralytics_platform_with_a_key(guarded: tuple[StreamServer, str]) -> None:
    server, key = guarded
    for sent, status_code in ((key, 200), ("wrong", 401)):
        with Platform(api_key=sent, base_url=server.url) as client:
            try:
                client.models.predict("me", "local", "codes", body={"source": "MTIz"})
                seen = 200
            except APIError as exc:
                seen = exc.status_code
        assert seen == status_code

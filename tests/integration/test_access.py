from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from serve_app.api.access.keys import make_key
from tests.integration.conftest import LONG_TIMEOUT_S, Service, eventually, ingress_with_keys
from tests.support import squares
from tests.support.squares import Square
from tests.support.videos import save_video

NAME = "guarded"


def save(path: Path, entries: list[dict[str, Any]]) -> None:
    """Replace the API-key file atomically, as Kubernetes replaces a mounted secret."""
    (path.parent / "new").write_text(yaml.safe_dump(entries))
    (path.parent / "new").rename(path)


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    save(path, [])
    return path


@pytest.fixture(scope="module")
def guarded(service: Service, keys_file: Path) -> Iterator[str]:
    with ingress_with_keys(service, keys_file, NAME) as url:
        yield url


def test_keys_apply_to_http_and_websocket_and_change_without_a_restart(guarded: str, keys_file: Path) -> None:
    picture = squares.encode(squares.picture([Square("red", 5, 10)]))
    made = [make_key("dock", ["detect"]), make_key("yard", ["streams"]), make_key("dock", ["detect"])]
    first, other, second = ({"Authorization": f"Bearer {key}"} for key, _ in made)
    entries = [entry for _, entry in made]

    def ask(header: dict[str, str]) -> httpx.Response:
        return httpx.post(f"{guarded}/detect", content=picture, headers=header, timeout=LONG_TIMEOUT_S)

    save(keys_file, entries[:2])
    answer = eventually(lambda: response if (response := ask(first)).is_success else None, what="the key")
    assert answer.json()["count"] == 1
    refused = ask({})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.headers["x-request-id"] == refused.json()["request_id"]
    assert ask(other).status_code == 403
    assert httpx.get(f"{guarded}/streams", headers=other).json()["streams"] == []
    for header, status_code in (({}, 401), (first, 403)):
        with pytest.raises(InvalidStatus) as closed:
            connect(f"{guarded}/streams/lot/events".replace("http", "ws"), additional_headers=header, proxy=None)
        assert closed.value.response.status_code == status_code
    save(keys_file, entries[1:])
    eventually(lambda: ask(second).is_success and ask(first).status_code == 401, what="the other key")


def test_a_browser_signs_in_and_works_with_its_cookie(guarded: str, keys_file: Path) -> None:
    key, entry = make_key("dock", ["detect", "streams"])
    save(keys_file, [entry])

    def sign_in() -> httpx.Response | None:
        response = httpx.post(f"{guarded}/session", json={"key": key}, timeout=LONG_TIMEOUT_S)
        return response if response.is_success else None

    response = eventually(sign_in, what="the key")
    cookie = {"Cookie": response.headers["set-cookie"].partition(";")[0]}
    picture = squares.encode(squares.picture([Square("red", 5, 10)]))
    origin = guarded.removesuffix(f"/{NAME}")
    page = cookie | {"Origin": origin, "X-CSRF-Token": response.json()["csrf_token"]}
    answers = [
        httpx.post(f"{guarded}/detect", content=picture, headers=header, timeout=LONG_TIMEOUT_S).status_code
        for header in (page, cookie, page | {"Origin": "https://evil.example"})
    ]
    assert answers == [200, 403, 403]
    url = f"{guarded}/streams/previews".replace("http", "ws")
    with connect(url, additional_headers=cookie, origin=Origin(origin), proxy=None) as socket:
        socket.send('{"streams": ["none"]}')
        assert "not_found" in socket.recv(timeout=LONG_TIMEOUT_S)
    with pytest.raises(InvalidStatus):
        connect(url, additional_headers=cookie, proxy=None)


@pytest.mark.usefixtures("streams")
def test_a_client_that_follows_a_stream_is_disconnected_when_its_key_is_removed(
    guarded: str, keys_file: Path, tmp_path: Path
) -> None:
    key, entry = make_key("yard", ["streams"])
    header = {"Authorization": f"Bearer {key}"}
    save(keys_file, [entry])
    eventually(lambda: httpx.get(f"{guarded}/streams", headers=header).is_success, what="the key")
    spec = {"id": "lot", "source": {"uri": str(save_video(tmp_path / "a.avi", frames=10, fps=10))}, "paused": True}
    httpx.post(f"{guarded}/streams", json=spec, headers=header, timeout=LONG_TIMEOUT_S).raise_for_status()
    with httpx.stream("GET", f"{guarded}/streams/lot/events", headers=header, timeout=LONG_TIMEOUT_S) as followed:
        assert followed.is_success
        save(keys_file, [])
        for _ in followed.iter_bytes():
            pass  # read until the server ends the response
    assert httpx.get(f"{guarded}/streams", headers=header).status_code == 401

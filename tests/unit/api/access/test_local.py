from __future__ import annotations

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from serve_app.api.access.local import require_keys
from serve_app.config import parse_args
from serve_app.errors import ConfigError
from tests.support.api import STREAM, Keys, connect_to, is_error
from tests.support.fakes import FakeBackend
from tests.support.stream_server import serve_streams

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "sightline.example", "", None])
async def test_what_other_machines_can_reach_does_not_start_without_keys(host: str | None) -> None:
    with pytest.raises(ConfigError, match=r"access\.keys_file"):
        require_keys(parse_args({}).access, host)
    require_keys(parse_args({"access": {"keys_file": "keys.yaml"}}).access, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
async def test_what_only_this_machine_can_reach_starts_without_keys(host: str) -> None:
    require_keys(parse_args({}).access, host)


LOCAL = ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1", "127.0.0.1:8000", "127.1.2.3:80", "[::1]", "[::1]:80"]
FOREIGN = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.7:8000"]
FOREIGN += ["0.0.0.0:8000", "", "[::1", "evil.example#@localhost"]


@pytest.mark.parametrize(("host", "status_code"), [*((h, 200) for h in LOCAL), *((h, 403) for h in FOREIGN)])
async def test_without_keys_a_name_that_a_web_page_made_point_here_is_refused(
    unkeyed: httpx.AsyncClient, host: str, status_code: int
) -> None:
    for path in ("/streams", "/health"):
        answer = await unkeyed.get(path, headers={"Host": host})
        assert answer.status_code == status_code
        assert answer.is_success or is_error(answer, 403, "forbidden")


@pytest.mark.parametrize(
    ("origin", "status_code"),
    [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:80", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
    ],
)
async def test_without_keys_a_web_page_elsewhere_can_change_nothing(
    unkeyed: httpx.AsyncClient, origin: str, status_code: int
) -> None:
    assert (await unkeyed.post("/detect", content=b"1", headers={"Origin": origin})).status_code == status_code
    assert (await unkeyed.post("/streams", json=STREAM, headers={"Origin": origin})).is_success == (status_code == 200)


@pytest.mark.parametrize(
    ("site", "status_code"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("", 403)]
)
async def test_without_keys_a_web_page_elsewhere_can_show_nothing(
    unkeyed: httpx.AsyncClient, site: str, status_code: int
) -> None:
    """A GET without CORS, as for an ``<img>``, has no ``Origin``."""
    for path in ("/streams", "/health", "/docs"):
        assert (await unkeyed.get(path, headers={"Sec-Fetch-Site": site})).status_code == status_code


async def test_every_answer_is_kept_from_pages_elsewhere_and_from_guesses(
    unkeyed: httpx.AsyncClient, backend: FakeBackend
) -> None:
    answers = [await unkeyed.get(path) for path in ("/health", "/docs", "/nothing", "/streams", "/streams/none")]
    answers += [await unkeyed.get("/health", headers={"Host": "evil.example"}), await unkeyed.delete("/health")]
    answers += [await unkeyed.post("/detect", content=picture) for picture in (b"1", b"slow")]
    backend.failure = RuntimeError("a bug")
    answers += [await unkeyed.post("/detect", content=b"1"), await unkeyed.get("/readyz")]
    assert {answer.status_code for answer in answers} == {200, 403, 404, 405, 500, 504}
    for answer in answers:
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_with_keys_any_name_and_any_web_page_may(keyed: httpx.AsyncClient, keys: Keys) -> None:
    header = keys.add("dock", "detect") | {"Host": "10.0.0.7:8000", "Origin": "https://sightline.example"}
    header |= {"Sec-Fetch-Site": "cross-site"}
    assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200


def test_without_keys_a_web_page_elsewhere_hears_nothing_by_websocket() -> None:
    with serve_streams() as served:
        served.http.post("/streams", json=STREAM).raise_for_status()
        with connect_to(served, origin="http://localhost:3000"):
            pass
        with pytest.raises(InvalidStatus) as refused:
            connect_to(served, origin="https://evil.example")
        assert refused.value.response.status_code == 403

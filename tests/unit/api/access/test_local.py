from __future__ import annotations

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from serve_app.api.access.local import require_keys
from serve_app.config import parse_args
from serve_app.errors import ConfigError
from tests.support.api import STREAM, Keys, build, client_of, connect_to, is_error
from tests.support.fakes import FakeBackend
from tests.support.stream_server import serve_streams

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "sightline.example", "", None])
async def test_without_keys_a_server_that_other_machines_can_reach_does_not_start(host: str | None) -> None:
    with pytest.raises(ConfigError, match=r"access\.keys_file"):
        require_keys(parse_args({}).access, host)
    require_keys(parse_args({"access": {"keys_file": "keys.yaml"}}).access, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
async def test_without_keys_a_server_that_only_this_machine_can_reach_starts(host: str) -> None:
    require_keys(parse_args({}).access, host)


LOCAL = ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1", "127.0.0.1:8000", "127.1.2.3:80", "[::1]", "[::1]:80"]
FOREIGN = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.7:8000"]
FOREIGN += ["0.0.0.0:8000", "", "[::1", "evil.example#@localhost"]


@pytest.mark.parametrize(("host", "status_code"), [*((h, 200) for h in LOCAL), *((h, 403) for h in FOREIGN)])
async def test_without_keys_only_local_host_names_are_accepted(
    unkeyed: httpx.AsyncClient, host: str, status_code: int
) -> None:
    for path in ("/streams", "/health"):
        response = await unkeyed.get(path, headers={"Host": host})
        assert response.status_code == status_code
        assert response.is_success or is_error(response, 403, "forbidden")


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
async def test_without_keys_pages_of_other_sites_can_change_nothing(
    unkeyed: httpx.AsyncClient, origin: str, status_code: int
) -> None:
    assert (await unkeyed.post("/detect", content=b"1", headers={"Origin": origin})).status_code == status_code
    assert (await unkeyed.post("/streams", json=STREAM, headers={"Origin": origin})).is_success == (status_code == 200)


@pytest.mark.parametrize(
    ("site", "status_code"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("", 403)]
)
async def test_without_keys_pages_of_other_sites_can_embed_nothing(
    unkeyed: httpx.AsyncClient, site: str, status_code: int
) -> None:
    """A browser sends no ``Origin`` header in a GET request without CORS, such as the request for an ``<img>``."""
    for path in ("/streams", "/health", "/docs"):
        assert (await unkeyed.get(path, headers={"Sec-Fetch-Site": site})).status_code == status_code


async def test_every_response_forbids_cross_origin_embedding_and_content_sniffing(
    unkeyed: httpx.AsyncClient, backend: FakeBackend
) -> None:
    responses = [await unkeyed.get(path) for path in ("/health", "/docs", "/nothing", "/streams", "/streams/none")]
    responses += [await unkeyed.get("/health", headers={"Host": "evil.example"}), await unkeyed.delete("/health")]
    responses.append(await unkeyed.post("/detect", content=b"1"))
    async with client_of(build(backend, limits={"deadline_s": 0.2})) as impatient:
        responses.append(await impatient.post("/detect", content=b"slow"))
    backend.failure = RuntimeError("a bug")
    responses += [await unkeyed.post("/detect", content=b"1"), await unkeyed.get("/readyz")]
    assert {response.status_code for response in responses} == {200, 403, 404, 405, 500, 504}
    for response in responses:
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_with_keys_any_host_name_and_any_web_page_is_accepted(keyed: httpx.AsyncClient, keys: Keys) -> None:
    header = keys.add("dock", "detect") | {"Host": "10.0.0.7:8000", "Origin": "https://sightline.example"}
    header |= {"Sec-Fetch-Site": "cross-site"}
    assert (await keyed.post("/detect", content=b"1", headers=header)).status_code == 200


def test_without_keys_pages_of_other_sites_cannot_open_a_websocket() -> None:
    with serve_streams() as served:
        served.http.post("/streams", json=STREAM).raise_for_status()
        with connect_to(served, origin=served.url):
            pass
        for origin in ("https://evil.example", "http://localhost:3000", "null"):
            with pytest.raises(InvalidStatus) as refused:
                connect_to(served, origin=origin)
            assert refused.value.response.status_code == 403

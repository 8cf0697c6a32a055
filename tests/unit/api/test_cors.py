"""Web pages of other sites, which may use the API if their origins are in ``cors.origins``."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config import parse_args
from serve_app.errors import ConfigError
from tests.support.api import Keys, build, client_of

pytestmark = pytest.mark.anyio

PAGE = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


async def test_by_default_no_page_of_another_site_can_read_an_answer() -> None:
    async with client_of(build()) as client:
        refused = await client.options("/detect", headers=PAGE | PREFLIGHT)
        assert refused.status_code == 403
        assert (await client.post("/detect", content=b"1", headers=PAGE)).status_code == 403
        own = await client.post("/detect", content=b"1", headers={"Origin": "http://localhost:3000"})
    for response in (refused, own):
        assert not {name for name in response.headers if name.startswith("access-control")}


@pytest.mark.parametrize("has_keys", [False, True])
async def test_a_listed_page_can_send_requests_and_read_answers(tmp_path: Path, has_keys: bool) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    header = keys.add("dock", "detect")
    api = build(keys=keys if has_keys else None, cors={"origins": "https://app.example, http://other.example:81"})
    async with client_of(api) as client:
        for path in ("/detect", "/v1/vision/detection"):
            preflight = await client.options(path, headers=PAGE | PREFLIGHT)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == "https://app.example"
            assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
            assert "access-control-allow-credentials" not in preflight.headers
        answer = await client.post("/detect", content=b"1", headers=PAGE | header)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        missing = await client.get("/nothing", headers=PAGE | header)
        assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, "https://app.example")


async def test_a_page_that_is_not_listed_is_refused_as_before() -> None:
    async with client_of(build(cors={"origins": "https://app.example"})) as client:
        page = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert (await client.options("/detect", headers=page | PREFLIGHT)).status_code == 400
        answer = await client.post("/detect", content=b"1", headers=page)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        other_host = PAGE | {"Host": "evil.example"}  # DNS rebinding
        assert (await client.post("/detect", content=b"1", headers=other_host)).status_code == 403
        hidden = {"Sec-Fetch-Site": "cross-site"}  # an <img> of a listed page sends no Origin
        assert (await client.get("/models", headers=hidden)).status_code == 403


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("HTTPS://App.Example", "https://app.example"),
        ("https://app.example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80/", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://localhost:03000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("https://xn--mller-kva.example", "https://xn--mller-kva.example"),
    ],
)
def test_an_origin_is_allowed_as_browsers_send_it(written: str, sent: str) -> None:
    assert parse_args({"cors": {"origins": f" {written} ,"}}).cors.allowed() == {sent}


@pytest.mark.parametrize(
    "origins",
    [
        *("*", "https://*.example", "app.example", "null", "ftp://a", "https://", "https://app.example/page"),
        *("https://app.example//", "https://app.example?a", "https://me@app.example", "https://müller.example"),
        *("https://app.example:0", "https://app.example:65536", "https://app.example:", "https://app.example:１"),
        *("https://[::1", "https://a b", "https://a.example https://b.example"),
    ],
)
def test_each_origin_must_be_named(origins: str) -> None:
    with pytest.raises(ConfigError, match=r"cors\.origins: .* is not an origin; list each as https://app\.example"):
        parse_args({"cors": {"origins": origins}})


def test_a_network_without_keys_must_be_valid() -> None:
    with pytest.raises(ConfigError, match=r"compat\.open_inference\.allow_from: .*10\.0\.0\.1/8"):
        parse_args({"compat": {"open_inference": {"allow_from": "10.0.0.1/8"}}})

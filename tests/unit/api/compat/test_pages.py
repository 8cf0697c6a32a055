"""Web pages of other sites, which must not be able to use any route of any protocol."""

from __future__ import annotations

import re

import httpx
import pytest

from serve_app.api.access import protocols
from serve_app.api.access.permissions import RouteTable
from tests.support.api import build
from tests.support.fakes import FakeBackend

pytestmark = pytest.mark.anyio

TABLE: RouteTable = vars(build())["route_table"]  # an attribute of our FastAPI subclass
ROUTES = [route for route in TABLE.routes if route.protocol]
POSTS = sorted(
    re.sub(r"\{\w+\}", "codes", route.path.replace("{task}", "object_detection"))
    for route in ROUTES
    if "POST" in route.methods
)
JSON = b'{"model_id": "codes", "image": {"type": "base64", "value": "MTIz"}}'
# What a page can send to another site without a preflight.
SIMPLE = [
    (JSON, "text/plain"),
    (b"api_key=&source=MTIz", "application/x-www-form-urlencoded"),
    (b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n1\r\n--x--\r\n', "multipart/form-data; boundary=x"),
]
PAGES = [
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "same-site"},
]


def test_all_protocols_have_routes() -> None:
    assert {route.protocol.name for route in ROUTES if route.protocol} >= {"deepstack", "ultralytics", "roboflow"}


@pytest.mark.parametrize("path", POSTS)
async def test_a_page_of_another_site_is_refused(
    path: str,
    client: httpx.AsyncClient,
    keyed: httpx.AsyncClient,
    backend: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second server accepts clients without a key from a network."""
    monkeypatch.setattr(protocols, "_BEHIND_HAPROXY", True)
    for body, kind in SIMPLE:
        for page in PAGES:
            headers = page | {"Content-Type": kind, "X-Forwarded-For": "10.1.2.3"}
            assert (await client.post(path, content=body, headers=headers)).status_code == 403
            assert (await keyed.post(path, content=body, headers=headers)).status_code in {401, 403}
    assert backend.pictures == []


@pytest.mark.parametrize("path", [path for path in POSTS if path.startswith(("/infer", "/model"))])
async def test_a_page_of_this_machine_must_declare_json(path: str, client: httpx.AsyncClient) -> None:
    page = {"Origin": "http://localhost:3000", "Content-Type": "text/plain"}
    assert (await client.post(path, content=JSON, headers=page)).status_code == 422
    assert (await client.post(path, content=JSON, headers=page | {"Content-Type": "application/json"})).is_success

"""The files of the page at ``/console``, and ``/``, which leads browsers to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from fastapi import FastAPI

from serve_app.api import console
from tests.support.api import build, client_of
from tests.unit.api.test_owners import ask

pytestmark = pytest.mark.anyio

SECRET = "secret outside of the folder"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """Return an API whose page has files of a few types."""
    folder = tmp_path_factory.mktemp("package") / "console"
    (folder / "samples").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>page</h1>")
    (folder / "app.js").write_text("export {}")
    (folder / "samples/one.jpg").write_bytes(b"jpeg")
    (folder / "README.md").write_text("for programmers")
    (folder / "notes.py").write_text("code")
    (folder.parent / "secret.js").write_text(SECRET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "_FOLDER", folder)
        return build()


@pytest.fixture
async def client(api: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "media_type", "text"),
    [
        ("/console", "text/html; charset=utf-8", "<h1>page</h1>"),
        ("/console/app.js", "text/javascript; charset=utf-8", "export {}"),
        ("/console/samples/one.jpg", "image/jpeg", "jpeg"),
    ],
)
async def test_a_file_is_served_with_its_type(client: httpx.AsyncClient, path: str, media_type: str, text: str) -> None:
    shown, head = await client.get(path), await client.head(path)
    assert (shown.status_code, shown.headers["content-type"], shown.text) == (200, media_type, text)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(text)), b"")


async def test_no_page_can_embed_the_console_and_it_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    for path in ("/console", "/console/app.js"):
        headers = (await client.get(path)).headers
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert set(" ".join(policy.values()).split()) <= {"'none'", "'self'", "blob:", "data:"}
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"


async def test_a_browser_asks_whether_a_file_has_changed(client: httpx.AsyncClient) -> None:
    first = await client.get("/console/app.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await client.get("/console/app.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert "content-security-policy" in again.headers
    assert (await client.get("/console/app.js", headers={"If-None-Match": '"other"'})).status_code == 200
    assert (await client.get("/console")).headers["etag"] != tag


@pytest.mark.parametrize(
    "path",
    [
        "/console/../secret.js",
        "/console/..%2fsecret.js",
        "/console/%2e%2e/secret.js",
        "/console/samples/../../secret.js",
        "/console/samples%2f..%2f..%2fsecret.js",
        "/console/..\\secret.js",
        "/console//etc/passwd",
        "/console/%2fetc%2fpasswd",
        "/console/app.js%00",
        "/console/app.js%0a",
        "/console/samples",
        "/console/notes.py",
        "/console/README.md",
        "/console/nothing.js",
        "/console/./app.js",
    ],
)
async def test_no_other_file_can_be_read(api: FastAPI, path: str) -> None:
    """Send the path as it is. A client such as httpx would resolve the dots."""
    for sent in (path, unquote(path)):
        assert (await ask(api, "GET", sent, {"Host": "localhost"}))[0] == 404


async def test_the_page_cannot_be_changed(client: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert (await client.request(method, "/console/app.js")).status_code == 405


@pytest.mark.parametrize(
    "accept",
    [
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        "text/html",
        "application/json;q=0.5, text/html",
    ],
)
async def test_a_browser_is_led_to_the_page(client: httpx.AsyncClient, accept: str) -> None:
    response = await client.get("/", headers={"Accept": accept})
    assert (response.status_code, response.headers["location"], response.headers["vary"]) == (307, "/console", "Accept")


@pytest.mark.parametrize("accept", ["*/*", "", "application/json", "text/html;q=0.5, application/json", "image/jpeg"])
async def test_a_program_gets_links_that_exist_and_no_version(client: httpx.AsyncClient, accept: str) -> None:
    response = await client.get("/", headers={"Accept": accept})
    assert (response.status_code, response.headers["vary"]) == (200, "Accept")
    assert response.json().keys() == {"name", "links"}
    for path in response.json()["links"].values():
        assert (await client.get(path)).status_code == 200


async def test_the_links_lead_to_the_root_path(api: FastAPI) -> None:
    transport = httpx.ASGITransport(api, root_path="/yolo")
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/yolo") as client:
        assert (await client.get("/", headers={"Accept": "text/html"})).headers["location"] == "/yolo/console"
        assert (await client.get("/")).json()["links"]["console"] == "/yolo/console"


def test_the_package_has_a_page() -> None:
    pages = console._files(Path(console.__file__).parents[1] / "console")
    assert pages["index.html"].media_type.startswith("text/html")

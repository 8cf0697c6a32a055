"""What pages of other sites cannot do with a session's cookie."""

from __future__ import annotations

import pytest

from serve_app.api.access.sessions import COOKIE
from tests.support.api import STREAM, Keys, build, is_error
from tests.unit.api.access.sessions.site import HOST, Site
from tests.unit.api.access.test_permissions import HTTP, TABLE, access_to, filled, first_message

pytestmark = pytest.mark.anyio

PATHS = [path for path in HTTP if access_to(path, "GET").protocol is None]
OTHER_SERVERS = [
    path for path in HTTP if access_to(path, "GET").protocol is not None and access_to(path, "GET").permission
]
CHANGES = [
    (method, path)
    for path in PATHS
    for method in ("POST", "PUT", "PATCH", "DELETE")
    if method in access_to(path, method).methods and access_to(path, method).permission
]
FOREIGN = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": f"https://other.{HOST}"},
    {"Sec-Fetch-Site": "cross-site", "Origin": f"https://{HOST}"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {},
]


def test_the_routes_that_change_something_are_all_there() -> None:
    assert {("POST", "/detect"), ("POST", "/streams/snapshot"), ("DELETE", "/session")} <= set(CHANGES)
    assert len(CHANGES) > 20


@pytest.mark.parametrize(("method", "path"), CHANGES, ids=" ".join)
async def test_a_page_of_another_site_cannot_change_anything(site: Site, method: str, path: str) -> None:
    site.keys._entries[0]["scopes"] = ["admin"]
    site.keys.save()
    for foreign in FOREIGN:
        header = foreign | {"Cookie": f"{COOKIE}={site.cookie}", "X-CSRF-Token": site.token}
        assert is_error(await site.call(method, filled(path), header), 403, "forbidden"), foreign
    for token in ("", "x", site.token[:-1], site.cookie):
        header = site.browser() | {"X-CSRF-Token": token}
        assert is_error(await site.call(method, filled(path), header), 403, "forbidden"), token
    own = await site.call(method, filled(path), site.browser())
    assert own.status_code not in {401, 403}
    without_fetch_metadata = {name: value for name, value in site.browser().items() if name != "Sec-Fetch-Site"}
    assert (await site.call(method, filled(path), without_fetch_metadata)).status_code == own.status_code


async def test_the_token_of_another_session_is_refused(site: Site) -> None:
    token = site.token
    await site.sign_in()
    header = site.browser() | {"X-CSRF-Token": token}
    assert is_error(await site.call("POST", "/streams", header, json=STREAM), 403, "forbidden")


@pytest.mark.parametrize("fetch_site", ["cross-site", "same-site"])
async def test_a_page_of_another_site_cannot_show_images_of_this_one(site: Site, fetch_site: str) -> None:
    header = {"Cookie": f"{COOKIE}={site.cookie}", "Sec-Fetch-Site": fetch_site}
    assert is_error(await site.call("GET", "/streams", header), 403, "forbidden")


@pytest.mark.parametrize("path", sorted({route.path for route in TABLE.routes if not route.methods}))
@pytest.mark.parametrize(
    "origin", ["", "null", "https://evil.example", f"https://{HOST}.evil.example", f"https://{HOST}:81", "//[", HOST]
)
async def test_a_page_of_another_site_cannot_open_a_websocket(site: Site, path: str, origin: str) -> None:
    header = {"Host": HOST, "Cookie": f"{COOKIE}={site.cookie}"} | ({"Origin": origin} if origin else {})
    refused = await first_message(site.api, filled(path), header)
    assert (refused["type"], refused["status"]) == ("websocket.http.response.start", 403)
    accepted = await first_message(site.api, filled(path), header | {"Origin": f"https://{HOST}"})
    assert accepted["type"] == "websocket.accept"


@pytest.mark.parametrize("path", OTHER_SERVERS)
async def test_routes_of_other_servers_do_not_accept_cookies(site: Site, path: str) -> None:
    for method in access_to(path, "GET").methods:
        response = await site.call(method, filled(path), site.browser())
        assert response.status_code in {400, 401}, method
        assert site.metrics.refusals[-1] == "unauthorized"


async def test_a_wrong_authorization_header_is_not_replaced_by_the_cookie(site: Site) -> None:
    for value in ("Bearer sl_wrong", "Bearer", "Basic x", "nothing"):
        response = await site.call("GET", "/streams", site.browser(Authorization=value))
        assert is_error(response, 401, "unauthorized"), value


async def test_pages_of_allowed_origins_cannot_use_cookies(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CORS_ORIGINS", "https://app.example")
    site = Site(keys)
    site.api = build(keys=keys)
    await site.sign_in()
    header = site.browser() | {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    response = await site.call("GET", "/session", header)
    assert response.status_code == 403
    assert "access-control-allow-credentials" not in response.headers

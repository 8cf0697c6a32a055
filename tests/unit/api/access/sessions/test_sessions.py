"""Sessions: what the page at ``/console`` can do with its cookie, and what attackers cannot."""

from __future__ import annotations

import base64
import json
import time
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from serve_app.api import session as session_routes
from serve_app.api.access.keys import KeyFile
from serve_app.api.access.permissions import RouteTable
from serve_app.api.access.sessions import COOKIE, MAX_AGE_S, Sessions, cookie_name
from tests.support.api import STREAM, Keys, build, client_of, connect_to, is_error, served_with
from tests.unit.api.access.sessions.site import HOST, OWN_PAGE, Site
from tests.unit.api.access.test_permissions import TABLE

pytestmark = pytest.mark.anyio


async def test_a_key_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(keys: Keys) -> None:
    site = Site(keys, "detect")
    response = await site.sign_in()
    assert response.json().keys() == {"name", "permissions", "expires_at_s", "csrf_token"}
    assert (response.json()["name"], response.json()["permissions"]) == ("dock", ["detect"])
    assert 0 < response.json()["expires_at_s"] - time.time() <= MAX_AGE_S == 8 * 3600
    assert '"' not in response.headers["set-cookie"]  # a browser would send the quotes back
    attributes = response.headers["set-cookie"].split("; ")[1:]
    assert set(attributes) == {"HttpOnly", f"Max-Age={MAX_AGE_S}", "Path=/", "SameSite=strict", "Secure"}
    assert response.headers["cache-control"] == "no-store"
    for secret in (site.key, keys.path.read_text()):
        assert secret not in site.cookie


async def test_on_this_machine_the_cookie_works_without_tls(keys: Keys) -> None:
    site = Site(keys)
    async with client_of(site.api, "127.0.0.1:8000") as client:
        response = await client.post("/session", json={"key": site.key})
    assert "Secure" not in response.headers["set-cookie"]


async def test_the_page_reads_and_changes_things_with_its_cookie(site: Site) -> None:
    assert (await site.call("POST", "/streams", site.browser(), json=STREAM)).json()["owner"] == "dock"
    for path in ("/streams", "/models", "/jobs"):
        assert (await site.call("GET", path, {"Cookie": f"{COOKIE}={site.cookie}"})).status_code == 200
    assert (await site.call("POST", "/detect", site.browser(), content=b"1")).status_code == 200
    shown = (await site.call("GET", "/session", site.browser())).json()
    assert (shown["name"], shown["csrf_token"]) == ("dock", site.token)
    assert site.metrics.requests[-1] == ("dock", "admitted")


async def test_signing_out_deletes_the_cookie(site: Site) -> None:
    response = await site.call("DELETE", "/session", site.browser())
    assert response.status_code == 204
    cookie = SimpleCookie(response.headers["set-cookie"])[COOKIE]
    assert (cookie.value, cookie["max-age"], cookie["path"]) == ("", "0", "/")


async def test_without_api_keys_nobody_needs_to_sign_in() -> None:
    api = build()
    async with client_of(api) as client:
        shown = await client.get("/session")
        signed_in = await client.post("/session", json={"key": "anything"})
    everything = {"permissions": ["detect", "streams", "jobs", "admin"], "expires_at_s": None, "csrf_token": None}
    assert shown.json() == signed_in.json() == {"name": ""} | everything
    assert "set-cookie" not in signed_in.headers


async def test_a_bearer_key_has_no_session(site: Site) -> None:
    shown = (await site.call("GET", "/session", site.header)).json()
    assert (shown["name"], shown["expires_at_s"], shown["csrf_token"]) == ("dock", None, None)


async def test_without_a_session_there_is_nobody_to_show(site: Site) -> None:
    assert is_error(await site.call("GET", "/session"), 401, "unauthorized")


# Signing in


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"key": ""}', b'{"key": 1}', b'{"key": "x", "name": "y"}'])
async def test_a_sign_in_without_a_key_is_refused(site: Site, body: bytes) -> None:
    header = OWN_PAGE | {"Content-Type": "application/json"}
    assert is_error(await site.call("POST", "/session", header, content=body), 422, "invalid_parameter")


async def test_a_refused_sign_in_quotes_nothing_and_sets_no_cookie(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(keys)
    site.api = build(keys=keys)
    responses = [await site.sign_in("sl_wrong_secret")]
    responses.append(await site.call("POST", "/session", OWN_PAGE, json={"key": {"sl_wrong_secret": 1}}))
    responses.append(await site.call("POST", "/session", OWN_PAGE, json={"key": "sl_wrong_secret" * 99}))
    assert [response.status_code for response in responses] == [401, 422, 422]
    for response in responses:
        assert "wrong_secret" not in response.text
        assert "set-cookie" not in response.headers
    assert "wrong_secret" not in caplog.text


async def test_a_long_body_is_refused(site: Site) -> None:
    assert is_error(await site.call("POST", "/session", OWN_PAGE, content=b" " * 4097), 413, "too_large", "json_body")


async def test_failed_sign_ins_are_limited_but_lock_nobody_out(keys: Keys) -> None:
    site = Site(keys)
    site.api = build(keys=keys)
    failed = [await site.sign_in("wrong") for _ in range(session_routes.MAX_FAILED_PER_S + 5)]
    assert is_error(failed[0], 401, "unauthorized")
    assert any(is_error(response, 429, "rate_limited", "failed_sign_ins") for response in failed)
    assert (await site.sign_in()).status_code == 200


async def test_an_expired_key_cannot_sign_in(keys: Keys) -> None:
    site = Site(keys, expires="2020-01-01")
    site.api = build(keys=keys)
    assert is_error(await site.sign_in(), 401, "unauthorized")


@pytest.mark.parametrize(
    "header",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://{HOST}.evil.example"},
        {"Origin": f"https://{HOST}:8443"},
    ],
)
async def test_another_site_cannot_sign_a_user_in(site: Site, header: dict[str, str]) -> None:
    response = await site.call("POST", "/session", header, json={"key": site.key})
    assert is_error(response, 403, "forbidden")
    assert "set-cookie" not in response.headers


async def test_a_sign_in_never_keeps_a_cookie_that_the_browser_had_before(site: Site) -> None:
    """Otherwise an attacker who plants a cookie would know the session of the user who signs in next."""
    before, token = site.cookie, site.token
    response = await site.call("POST", "/session", site.browser(), json={"key": site.key})
    assert SimpleCookie(response.headers["set-cookie"])[COOKIE].value != before
    assert response.json()["csrf_token"] != token


# Forged and stale cookies


def rewritten(cookie: str, **changes: Any) -> str:
    """Return a cookie with another content and the old signature."""
    body, _, signature = cookie.partition(".")
    name, expires_at_s, nonce = json.loads(base64.urlsafe_b64decode(body + "=="))
    fields = {"name": name, "expires_at_s": expires_at_s, "nonce": nonce} | changes
    return f"{base64.urlsafe_b64encode(json.dumps(list(fields.values())).encode()).decode().rstrip('=')}.{signature}"


async def test_a_cookie_whose_content_was_changed_is_refused(site: Site) -> None:
    site.keys.add("admin", "admin")
    body, _, signature = site.cookie.partition(".")
    forged = [
        rewritten(site.cookie, name="admin"),
        rewritten(site.cookie, expires_at_s=2**40),
        rewritten(site.cookie, nonce="other"),
        site.cookie[:-1],
        body,
        f"{body}.",
        f".{signature}",
        f"{body}.{signature}=",
        f"{body}.{'A' * len(signature)}",
        f"{body}.{body}.{signature}",
        f"{signature}.{body}",
        f" {site.cookie} x",
        ".",
        "\\xe9.\\xe9",
        "\x00.\x00",
        base64.urlsafe_b64encode(b"[" * 500).decode() + ".x",
    ]
    assert rewritten(site.cookie).partition(".")[2] == signature
    for cookie in forged:
        header = {"Cookie": f"{COOKIE}={cookie}"}
        assert is_error(await site.call("GET", "/session", header), 401, "unauthorized"), cookie


async def test_a_cookie_of_another_server_is_refused(site: Site, tmp_path: Path) -> None:
    (key,) = KeyFile(site.keys.path).keys
    _, cookie = await Sessions(tmp_path / "other").open(key)
    response = await site.call("GET", "/session", {"Cookie": f"{COOKIE}={cookie}"})
    assert is_error(response, 401, "unauthorized")


async def test_two_cookies_of_the_same_name_are_not_used(site: Site) -> None:
    """A page of another host of the domain may have set one of them, to make the user work in its own session."""
    both = {"Cookie": f"{COOKIE}={site.cookie}; {COOKIE}={site.cookie}"}
    assert is_error(await site.call("GET", "/session", both), 401, "unauthorized")


async def test_a_session_ends_after_eight_hours(keys: Keys, tmp_path: Path) -> None:
    keys.add("dock", "detect")
    entries, now_s = KeyFile(keys.path).keys, [1000.0]
    sessions = Sessions(tmp_path, lambda: now_s[0])
    _, cookie = await sessions.open(entries[0])
    now_s[0] += MAX_AGE_S - 1
    assert await sessions.read(cookie, entries) is not None
    now_s[0] += 1
    assert await sessions.read(cookie, entries) is None


@pytest.mark.parametrize("change", ["removed", "expired", "renamed", "replaced"])
async def test_a_session_ends_with_its_key(site: Site, change: str) -> None:
    (entry,) = site.keys._entries
    if change == "removed":
        site.keys.clear()
    elif change == "replaced":  # by another key of the same name
        site.keys._entries.clear()
        site.keys.add("dock", "admin")
    else:
        entry |= {"expires": "2020-01-01"} if change == "expired" else {"name": "yard"}
        site.keys.save()
    for method, path in (("GET", "/streams"), ("POST", "/streams"), ("GET", "/session"), ("DELETE", "/session")):
        assert is_error(await site.call(method, path, site.browser()), 401, "unauthorized")


async def test_a_session_loses_a_permission_with_its_key(site: Site) -> None:
    site.keys._entries[0]["scopes"] = ["detect"]
    site.keys.save()
    assert is_error(await site.call("GET", "/streams", site.browser()), 403, "forbidden")
    assert (await site.call("GET", "/session", site.browser())).json()["permissions"] == ["detect"]


async def test_a_session_has_the_limits_of_its_key(keys: Keys) -> None:
    site = Site(keys, requests_per_s=1)
    await site.sign_in()
    codes = [(await site.call("GET", "/streams", site.browser())).status_code for _ in range(4)]
    assert 429 in codes


def test_a_socket_with_a_cookie_is_closed_when_its_key_is_revoked(keys: Keys) -> None:
    with served_with(keys) as served:
        key = served.http.headers.pop("Authorization").removeprefix("Bearer ")
        ((name, cookie),) = served.http.post("/session", json={"key": key}).cookies.items()
        header = {"Cookie": f"{name}={cookie}"}
        with connect_to(served, additional_headers=header, origin=served.url) as socket:
            served.happen()
            assert "state" in socket.recv(timeout=60)
            keys.clear()
            with pytest.raises(Exception, match="4401"):
                socket.recv(timeout=60)


@pytest.mark.parametrize(
    ("host", "root_path", "name"),
    [
        ("sightline.example", "", COOKIE),
        ("127.0.0.1:8000", "", f"{COOKIE}_8000"),
        ("[::1]:8001", "/second/one", f"{COOKIE}_8001_second-2Fone"),
        ("localhost:x", "/a;b=c", f"{COOKIE}_a-3Bb-3Dc"),
    ],
)
def test_two_services_on_one_host_have_cookies_of_their_own(host: str, root_path: str, name: str) -> None:
    scope = {"type": "http", "headers": [(b"host", host.encode())], "root_path": root_path}
    assert cookie_name(HTTPConnection(scope)) == name


def test_the_table_has_the_routes_of_sessions() -> None:
    table: RouteTable = TABLE
    found = {
        (method, route.permission) for route in table.routes if route.path == "/session" for method in route.methods
    }
    assert found == {("POST", None), ("GET", "any"), ("HEAD", "any"), ("DELETE", "any")}

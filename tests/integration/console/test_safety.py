"""Tests of signing in, and of names and texts that contain markup."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import Page, Route, expect

from serve_app.api.access.keys import Key, make_key
from serve_app.api.access.sessions import COOKIE, MAX_AGE_S, Sessions
from serve_app.types import Json
from tests.integration.conftest import LONG_TIMEOUT_S, Service, eventually, ingress_with_keys, start_stream
from tests.integration.console.conftest import Open, check
from tests.support import squares
from tests.support.squares import Square
from tests.support.videos import save_video

MARKUP = '<img src=x onerror="window.attacked=1">'
_NOT_TEXTS = {"state", "type", "change", "direction", "task", "suppression", "policy", "name", "stream_id", "job_id"}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an empty keys file."""
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text("[]")
    return path


@pytest.fixture(scope="module")
def locked(service: Service, keys_file: Path) -> Iterator[str]:
    with ingress_with_keys(service, keys_file, "locked") as url:
        yield url


def test_a_key_signs_in_shows_what_it_allows_and_ends_the_session_when_it_is_removed(
    open_page: Open, locked: str, keys_file: Path
) -> None:
    key, entry = make_key("dock", ["detect"])
    keys_file.write_text(yaml.safe_dump([entry]))
    eventually(lambda: is_known(locked, key), what="the key")
    page = open_page(f"{locked}#/try")
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("API key")).to_have_attribute("aria-invalid", "true")
    check(page, "sign-in")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Try it")).to_be_visible()
    expect(page.locator("svg.overlay")).to_be_visible()
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Try it", "Health"])
    second = page.context.new_page()
    second.goto(f"{locked}/console#/health")
    expect(second.get_by_role("heading", name="Health")).to_be_visible()
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert key not in kept
    assert "sightline_session" not in kept
    keys_file.write_text("[]")
    eventually(lambda: not is_known(locked, key), what="the removal of the key")
    page.get_by_label("Confidence").fill("0.2")
    expect(page.get_by_label("API key")).to_be_visible()
    expect(second.get_by_label("API key")).to_be_visible()


def is_known(url: str, key: str) -> bool:
    """Return whether the server accepts the key."""
    response = httpx.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"}, timeout=LONG_TIMEOUT_S)
    return response.is_success


def test_all_tabs_follow_when_one_signs_out_or_in_and_all_notice_that_the_session_is_over(
    open_page: Open, locked: str, keys_file: Path, stream_folders: dict[str, str]
) -> None:
    key, entry = make_key("dock", ["detect"])
    keys_file.write_text(yaml.safe_dump([entry]))
    eventually(lambda: is_known(locked, key), what="the key")
    page = open_page(f"{locked}#/try")
    sign_in(page, key)
    second = page.context.new_page()
    second.goto(f"{locked}/console#/health")
    expect(second.get_by_role("heading", name="Health")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    for tab in (page, second):
        expect(tab.get_by_label("API key")).to_be_visible()
    page.reload()
    sign_in(page, key)
    expect(second.get_by_role("heading", name="Health")).to_be_visible()
    expect(page.locator("svg.overlay")).to_be_visible()  # from now on, this tab sends nothing by itself
    cookie = cookie_that_is_over(stream_folders["state_dir"], entry)
    (name,) = (one["name"] for one in page.context.cookies() if one["name"].startswith(COOKIE))
    page.context.add_cookies([{"name": name, "value": cookie, "url": locked}])
    expect(second.get_by_text("Your session has ended.")).to_be_visible()
    with page.expect_response("**/session"):  # the first tab, which has not noticed anything, asks for its new token
        sign_in(second, key)
    expect(second.get_by_role("heading", name="Health")).to_be_visible()
    with page.expect_response("**/detect?*") as answered:
        page.get_by_role("button", name="Belt").click()
    assert answered.value.status == 200


def test_a_deletion_happens_before_its_session_is_signed_out_and_not_after_the_session_has_ended(
    open_page: Open, service: Service, locked: str, keys_file: Path, stream_folders: dict[str, str]
) -> None:
    key, entry = make_key("dock", ["detect", "jobs"])
    keys_file.write_text(yaml.safe_dump([entry]))
    eventually(lambda: is_known(locked, key), what="the key")
    picture = squares.encode(squares.picture([Square("red", 5, 10)]))
    with service.client() as client:
        for name in ("night", "day"):
            job = ("job", (None, json.dumps({"id": name})))
            client.post("/jobs", files=[job, *[("file", ("a.png", picture))]])
        page = open_page(f"{locked}#/jobs/night")
        sign_in(page, key)
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("API key")).to_be_visible()
        assert client.get("/jobs/night").status_code == 404
        page.evaluate("location.hash = '#/jobs/day'")
        sign_in(page, key)
        page.get_by_role("button", name="Delete").click()
        cookie = cookie_that_is_over(stream_folders["state_dir"], entry)
        (name,) = (one["name"] for one in page.context.cookies() if one["name"].startswith(COOKIE))
        page.context.add_cookies([{"name": name, "value": cookie, "url": locked}])
        expect(page.get_by_text("Your session has ended.")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_text(re.compile("^day was not deleted"))
        assert page.get_by_role("button", name="Undo").count() == 0
        assert client.get("/jobs/day").status_code == 200


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1")).not_to_have_text("Sign in")


def cookie_that_is_over(state_dir: str, entry: Json) -> str:
    """Sign a cookie for this entry of a keys file with the server's secret. The cookie expired a second ago."""
    sessions = Sessions(Path(state_dir), clock_s=lambda: time.time() - MAX_AGE_S - 1)
    with ThreadPoolExecutor() as pool:  # in this thread, the event loop of Playwright is running
        return pool.submit(asyncio.run, sessions.open(Key.model_validate(entry))).result()[1]


@pytest.mark.usefixtures("streams")
def test_markup_in_names_and_texts_is_shown_as_text(
    open_page: Open, service: Service, tmp_path: Path, stream_folders: dict[str, str]
) -> None:
    hostile = tmp_path / f"{MARKUP}.avi"
    start_stream(
        service.url, save_video(hostile, frames=30, fps=15), loop=True, stream_id="belt", tags={MARKUP: MARKUP}
    )
    with service.client() as client:
        picture = squares.encode(squares.picture([Square("red", 5, 10)]))
        files = [("file", (f"{MARKUP}.png", picture)), ("file", (f"{MARKUP}.jpg", picture[:99]))]
        client.post("/jobs", files=[("job", (None, json.dumps({"id": "night"}))), *files])
    page = open_page("#/try")
    page.route("**/*", add_markup)
    for place in (
        "try",
        "streams",
        "streams/belt",
        "streams/belt/regions",
        "jobs",
        "jobs/night",
        "health",
        "new-stream",
    ):
        page.goto(f"{service.url}/console#/{place}")
        page.reload()
        expect(page.locator("h1")).to_be_visible()
        page.wait_for_load_state("load")
        if place not in {"streams/belt/regions", "jobs/night"}:
            expect(page.get_by_text("<img src=x", exact=False).first).to_be_attached()
        assert page.locator("img[src=x]").count() == 0, place
        assert page.evaluate("window.attacked") is None, place


def add_markup(route: Route) -> None:
    """Let the real server answer, and then add markup to the texts in its JSON."""
    if route.request.resource_type != "fetch":
        return route.continue_()
    response = route.fetch()
    if "json" not in response.headers.get("content-type", ""):
        return route.fulfill(response=response)
    return route.fulfill(response=response, json=with_markup(response.json()))


def with_markup(value: Any, name: str = "") -> Any:
    """Return JSON in which each text has markup, but for names and states on which the page depends."""
    if isinstance(value, dict):
        return {key: with_markup(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [with_markup(one, name) for one in value]
    return value + MARKUP if isinstance(value, str) and name not in _NOT_TEXTS else value

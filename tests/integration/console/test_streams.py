"""Tests of the pages of streams: the wall, the form, one stream, and the zones and lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Playwright, expect

from scripts.benchmark.browser import chromium, tabs
from serve_app.schemas.streams import Regions
from tests.integration.conftest import (
    Service,
    client_for,
    eventually,
    rtsp_camera,
    start_stream,
    stream_ids,
    stream_status,
)
from tests.integration.console.conftest import TIMEOUT_MS, Open, check
from tests.support.videos import save_video

pytestmark = pytest.mark.usefixtures("streams")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a video in which a square moves from the left to the right in the upper half, three times."""
    return save_video(tmp_path_factory.mktemp("belt") / "belt.avi", frames=90, fps=15)


def test_a_stream_is_added_watched_paused_and_deleted(open_page: Open, service: Service, video: Path) -> None:
    page = open_page("#/streams")
    page.get_by_role("link", name="Add a stream").click()
    page.get_by_label("Source").fill("no/such/video.avi")
    page.get_by_role("button", name="Start the stream").click()
    expect(page.get_by_label("Source")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Source").fill(str(video))
    page.get_by_role("button", name="Look at the source first").click()
    expect(page.get_by_alt_text("A frame of the source")).to_be_visible()
    page.get_by_label("Name").fill("belt")
    page.get_by_label("Play a file again").check()
    check(page, "new-stream")
    page.get_by_role("button", name="Start the stream").click()
    expect(page.get_by_role("heading", name="belt")).to_be_visible()
    expect(page.get_by_role("list", name="Events")).to_contain_text("starting → running")
    eventually(lambda: is_drawn(page), what="a frame")
    check(page, "stream")
    page.get_by_role("link", name="All streams").click()
    tile = page.get_by_role("article", name="Stream belt")
    expect(tile).to_contain_text("running")
    eventually(lambda: is_drawn(page), what="a frame on the wall")
    check(page, "streams")
    tile.get_by_role("button", name="Pause").click()
    expect(tile).to_contain_text("paused")
    tile.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Undo").click()
    assert stream_ids(service.url) == ["belt"]
    tile.get_by_role("button", name="Delete").click()
    eventually(lambda: not stream_ids(service.url), what="the deletion")
    expect(tile).to_have_count(0)


def test_a_camera_that_stops_and_returns_changes_its_state_on_the_wall(
    open_page: Open, service: Service, pictures: Path
) -> None:
    with rtsp_camera(pictures) as port:
        start_stream(service.url, f"rtsp://127.0.0.1:{port}/cam", stream_id="gate")
        page = open_page("#/streams")
        tile = page.get_by_role("article", name="Stream gate")
        expect(tile).to_contain_text("running")
        eventually(lambda: is_drawn(page), what="a frame")
    expect(tile).to_contain_text("reconnecting")
    expect(tile.locator(".cause")).not_to_be_empty()


def test_a_zone_that_is_drawn_by_mouse_counts_and_a_line_is_added_by_keyboard(
    open_page: Open, service: Service, video: Path
) -> None:
    start_stream(service.url, video, loop=True, stream_id="belt")
    page = open_page("#/streams/belt/regions")
    eventually(lambda: is_drawn(page), what="a frame")
    page.get_by_role("button", name="Add a zone").click()
    box = page.locator(".board").bounding_box()
    assert box is not None
    corners = ((0.02, 0.02), (0.98, 0.02), (0.98, 0.6), (0.02, 0.6))
    for x, y in corners:
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.keyboard.press("Enter")
    page.get_by_role("textbox", name="Zone").fill("all")
    page.get_by_role("button", name="Add a line").press("Enter")
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    regions = saved_regions(service)
    assert [zone.name for zone in regions.zones] == ["all"]
    for point, expected in zip(regions.zones[0].polygon, corners, strict=True):
        assert point == pytest.approx(expected, abs=0.01)
    assert regions.lines[0].start == pytest.approx((0.51, 0.8))
    counts = page.locator("g.region.zone .count")
    # After a repetition of the video, the tracker keeps the object of the end for a while: two are then inside.
    expect(counts).to_contain_text(re.compile("[12] inside"))
    entered = stream_status(service.url, "belt").zones["all"].entered
    assert entered >= 1
    check(page, "regions")


def test_a_hidden_page_sends_and_receives_nothing_until_it_is_shown_again(
    playwright: Playwright, chromium_path: str, service: Service, video: Path
) -> None:
    start_stream(service.url, video, loop=True, stream_id="belt", policy="drop_oldest")  # plays at its own speed
    traffic: list[str] = []

    def traffic_of_a_while() -> list[str]:
        """Return the addresses of the page's traffic in 45 frames, which take 3 s. A shown page asks every 2 s."""
        page.evaluate("")  # Playwright reports earlier events before it answers
        traffic.clear()
        last = stream_status(service.url, "belt").processed + 45
        eventually(lambda: stream_status(service.url, "belt").processed >= last, what="frames")
        page.evaluate("")
        return traffic

    with chromium(chromium_path) as address, tabs(playwright, address) as context:
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda request: traffic.append(request.url))
        page.on("websocket", lambda socket: socket.on("framereceived", lambda _: traffic.append(socket.url)))
        page.goto(f"{service.url}/console#/streams")
        eventually(lambda: is_drawn(page), what="a frame")
        assert {address.rsplit("/", 1)[-1] for address in traffic_of_a_while()} == {"streams", "previews"}
        context.new_page().bring_to_front()
        page.wait_for_function("document.visibilityState === 'hidden'", polling=100)
        eventually(lambda: not traffic_of_a_while(), what="silence")
        page.bring_to_front()
        eventually(lambda: len(set(traffic_of_a_while())) == 2, what="requests and frames")


def is_drawn(page: Page) -> bool:
    """Return whether the first canvas shows a picture that is not empty."""
    return bool(
        page.evaluate(
            """() => {
              const canvas = document.querySelector("canvas");
              if (!canvas) return false;
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              return data.some((value, index) => index % 4 !== 3 && value > 100);
            }"""
        )
    )


def saved_regions(service: Service) -> Regions:
    """Return the zones and lines of the stream ``belt``."""
    with client_for(service.url) as client:
        return client.streams.regions("belt")

"""Tests of the pages of streams: the wall, the form, one stream, and the zones and lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest
from playwright.sync_api import Page, Playwright, WebSocketRoute, expect

from scripts.benchmark.browser import chromium, tabs
from scripts.trials.relay import Relay
from tests.integration.conftest import (
    Service,
    client_for,
    eventually,
    rtsp_camera,
    start_stream,
    stream_ids,
    stream_status,
)
from tests.integration.console.conftest import SCREENSHOTS, TIMEOUT_MS, UNDO_MS, Open, check
from tests.support import squares
from tests.support.squares import Square
from tests.support.videos import save_video

pytestmark = pytest.mark.usefixtures("streams")


# The label and the brightness of each parcel on the belt. The model finds the darker ones with a confidence of 0.6.
PARCELS = [("red", 255), ("green", 255), ("blue", 255), ("red", 242), ("green", 242), ("blue", 242)]
PITCH = 12  # columns from one parcel to the next
COLUMNS = 36  # of the places on the belt
CLICKED = ((0.25, 0.1), (0.75, 0.1), (0.75, 0.6), (0.25, 0.6))  # the corners of a zone through which all parcels pass
TAPPED = ((0.25, 0.2), (0.75, 0.2), (0.75, 0.9), (0.25, 0.9))  # those of another
LEAVES = "dispatchEvent(new Event('beforeunload', { cancelable: true }))"  # false: the browser asks first
HIDE = """() => {
  Object.defineProperty(document, "hidden", { value: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture(scope="module")
def belt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a video in which each parcel passes once from the left edge to the right edge."""
    path = tmp_path_factory.mktemp("belt") / "belt.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 15, (squares.SIZE_PX, squares.SIZE_PX))
    for shift in range(PITCH * len(PARCELS) + COLUMNS):
        columns = (shift - PITCH * number for number in range(len(PARCELS)))
        parcels = [
            Square(label, column, 8, brightness)
            for (label, brightness), column in zip(PARCELS, columns, strict=True)
            if 0 <= column < COLUMNS
        ]
        writer.write(squares.picture(parcels))
    writer.release()
    return path


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
    with page.expect_download() as download:
        page.get_by_role("link", name="Save a frame").click()
    assert download.value.suggested_filename == "belt.jpg"
    saved = cv2.imread(str(download.value.path()))
    assert saved is not None
    assert saved.shape == (squares.SIZE_PX, squares.SIZE_PX, 3)
    page.get_by_role("link", name="All streams").click()
    tile = page.get_by_role("article", name="Stream belt")
    expect(tile).to_contain_text("running")
    eventually(lambda: is_drawn(page), what="a frame on the wall")
    check(page, "streams")
    tile.get_by_role("button", name="Pause").click()
    expect(tile).to_contain_text("paused")
    page.clock.install()
    tile.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Undo").click()
    tile.get_by_role("button", name="Resume").click()
    expect(tile).to_contain_text("running")
    tile.get_by_role("button", name="Delete").click()
    expect(tile).to_contain_text("deleting")
    assert stream_ids(service.url) == ["belt"]  # the page delays the call
    page.clock.fast_forward(UNDO_MS)
    eventually(lambda: not stream_ids(service.url), what="the deletion")
    expect(tile).to_have_count(0)


def test_a_camera_that_stops_and_returns_changes_its_state_on_the_wall(
    open_page: Open, service: Service, pictures: Path
) -> None:
    with rtsp_camera(pictures) as port, Relay(port) as relay:
        start_stream(service.url, f"rtsp://127.0.0.1:{relay.port}/cam", stream_id="gate")
        page = open_page("#/streams")
        tile = page.get_by_role("article", name="Stream gate")
        state = tile.locator(".status:visible")
        expect(state).to_have_text("running")
        expect(state).to_have_class("status good")
        eventually(lambda: is_drawn(page), what="a frame")
        relay.unplug()
        expect(state).to_have_text("reconnecting")
        expect(state).to_have_class("status warn")
        expect(tile.locator(".cause")).not_to_be_empty()
        expect(page.get_by_text("1 with a problem")).to_be_visible()
        expect(tile.locator(".age")).to_be_hidden()  # the old frame is not shown as a new one
        page.screenshot(path=SCREENSHOTS / "reconnecting.png")
        relay.plug()
        expect(state).to_have_text("running")
        expect(tile.locator(".cause")).to_be_hidden()
        expect(tile.locator(".age")).to_be_visible()


def test_zones_and_lines_that_are_drawn_by_mouse_touch_and_keyboard_count_what_is_on_the_belt(
    open_page: Open, service: Service, belt: Path
) -> None:
    start_stream(service.url, belt, loop=True, stream_id="belt")
    page = open_page("#/streams/belt/regions", has_touch=True)
    eventually(lambda: is_drawn(page), what="a frame")
    page.get_by_role("button", name="Add a zone").click()
    for x, y in CLICKED:
        page.mouse.click(*place(page, x, y))
    page.keyboard.press("Enter")
    page.get_by_role("textbox", name="Zone").fill("all")
    page.get_by_role("button", name="Add a zone").tap()
    for x, y in TAPPED:
        page.touchscreen.tap(*place(page, x, y))
    page.get_by_role("button", name="Finish the zone").tap()
    card = page.get_by_role("region", name="zone 1")
    card.get_by_label("Labels").fill("red")
    card.get_by_label("Confidence").fill("0.8")
    page.get_by_role("button", name="Add a line").click()
    for y in (0.9, 0.1):
        page.mouse.click(*place(page, 0.32, y))
    page.get_by_role("region", name="line 1").get_by_label("Labels").fill("green")
    page.get_by_role("button", name="Add a line").press("Enter")
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    expect(page.locator("g.region.zone .count").first).to_contain_text(re.compile("[0-9] inside"))
    check(page, "regions")
    with client_for(service.url) as client:
        regions = client.streams.regions("belt")
        assert [(zone.name, zone.labels, zone.confidence) for zone in regions.zones] == [
            ("all", [], None),
            ("zone 1", ["red"], 0.8),
        ]
        for zone, corners in zip(regions.zones, (CLICKED, TAPPED), strict=True):
            for point, corner in zip(zone.polygon, corners, strict=True):
                assert point == pytest.approx(corner, abs=0.01)
        assert [line.labels for line in regions.lines] == [["green"], []]
        assert regions.lines[1].start == pytest.approx((0.51, 0.8))
        # The belt runs once more from its start, so that the page can be compared with what is known about it.
        spec = {"id": "belt", "source": {"uri": str(belt)}, "recording": {}} | regions.model_dump()
        client.streams.replace(spec)
    page.get_by_role("link", name="belt").click()
    expect(page.locator(".status").first).to_have_text("completed")
    bright_red, green = PARCELS.count(("red", 255)), [label for label, _ in PARCELS].count("green")
    counts = page.get_by_role("region", name="Counts")
    for name, entered in (("all", len(PARCELS)), ("zone 1", bright_red)):
        expect(counts.get_by_role("row", name=name)).to_contain_text(f"0 inside, {entered} entered, {entered} left")
    for name, crossed in (("line 1", green), ("line 2", len(PARCELS))):
        expect(counts.get_by_role("row", name=name)).to_contain_text(f"{crossed} in, 0 out")
    expect(page.get_by_role("region", name="Recordings").get_by_role("button", name="Play the clip")).to_have_count(1)


def test_zones_are_not_lost_by_a_failed_request_a_second_page_or_a_link(
    open_page: Open, service: Service, video: Path
) -> None:
    zone = {"name": "dock", "polygon": CLICKED}
    start_stream(service.url, video, loop=True, stream_id="new", policy="drop_oldest", zones=[zone])
    eventually(lambda: stream_status(service.url, "new").processed, what="a frame")  # its process takes zones now
    page = open_page("#/streams/new")
    page.route("**/regions", lambda route: route.fulfill(status=503, json={"detail": "retry later"}), times=1)
    page.get_by_role("link", name="Zones and lines").click()
    expect(page.get_by_role("alert")).to_have_text("retry later")
    for name in ("Save", "Discard changes", "Add a zone", "Add a line"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    page.get_by_role("button", name="Try again").click()
    mine = page.get_by_role("textbox", name="Zone")
    expect(mine).to_have_value("dock")
    assert page.evaluate(LEAVES)
    mine.fill("mine")
    assert not page.evaluate(LEAVES)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("link", name="new").click()
    expect(mine).to_have_value("mine")
    with client_for(service.url) as client:
        client.streams.set_regions("new", {"zones": [zone | {"name": "theirs"}]})
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_contain_text("changed meanwhile")
        assert [zone.name for zone in client.streams.regions("new").zones] == ["theirs"]
        page.get_by_role("button", name="Load the changed zones").click()
        expect(mine).to_have_value("theirs")
        mine.fill("mine")
        page.mouse.move(*place(page, *CLICKED[0]))
        page.mouse.down()
        page.mouse.move(*place(page, 0.4, 0.3))
        page.mouse.up()
        client.streams.set_regions("new", {"zones": [zone]})
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_contain_text("changed meanwhile")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Saved.")).to_be_visible()
        (saved,) = client.streams.regions("new").zones
        assert saved.name == "mine"
        assert saved.polygon[0] == pytest.approx((0.4, 0.3), abs=0.01)


def test_the_events_of_a_stream_continue_after_a_lost_connection_and_are_not_connected_while_the_page_is_hidden(
    open_page: Open, service: Service, video: Path
) -> None:
    start_stream(service.url, video, loop=True, stream_id="belt", policy="drop_oldest")
    page = open_page("#/jobs")
    sockets: list[WebSocketRoute] = []
    page.route_web_socket("**/events?*", lambda socket: sockets.append(socket))
    page.evaluate("location.hash = '#/streams/belt'")
    events = page.get_by_role("region", name="Events")
    expect(events).to_contain_text("No events yet.")
    eventually(lambda: page.evaluate("1") and sockets, what="a connection")
    change = {"type": "state", "at_s": 0, "previous": "starting", "state": "running"}
    sockets[0].send(json.dumps(change | {"event_id": 5}))
    expect(events.get_by_role("listitem")).to_contain_text("starting → running")
    sockets[0].close(reason="too many connections")
    expect(events).to_contain_text("New events do not arrive: too many connections.")
    eventually(lambda: page.evaluate("2") and len(sockets) == 2, what="a second connection")
    assert sockets[1].url.endswith("after=5")
    expect(events.get_by_text("New events do not arrive")).to_be_hidden()
    sockets[1].send(json.dumps({"type": "missed", "missed": 7}))
    expect(events).to_contain_text("7 events were missed")
    closed: list[int | None] = []
    sockets[1].on_close(lambda code, _: closed.append(code))
    page.evaluate(HIDE)
    eventually(lambda: page.evaluate("3") and closed, what="the end of the connection")


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """Scroll to the stream's picture, and return where in the window this point is, which is given as fractions."""
    board = page.locator(".board")
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


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


def test_a_recorded_clip_is_played_and_saved(open_page: Open, service: Service, video: Path) -> None:
    recording = {"pre_roll_s": 0, "post_roll_s": 1, "max_clip_s": 1, "keep": 3}
    start_stream(service.url, video, loop=True, stream_id="belt", policy="drop_oldest", recording=recording)
    page = open_page("#/streams/belt")
    recordings = page.get_by_role("region", name="Recordings")
    expect(recordings.get_by_role("link", name="Download the clip")).not_to_have_count(0)
    with client_for(service.url) as client:
        client.streams.pause("belt")  # so that no clip is deleted while the test looks at it
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.reload()
    newest = recordings.get_by_role("button", name="Play the clip").first
    newest.click()
    player = recordings.locator("video")
    eventually(lambda: player.evaluate("video => video.currentTime > 0 && video.videoWidth > 0"), what="playing")
    check(page, "recordings")
    with page.expect_download() as download:
        recordings.get_by_role("link", name="Download the clip").first.click()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d-]+\.\d{3}Z\.mp4", download.value.suggested_filename)
    assert cv2.VideoCapture(str(download.value.path())).read()[0]
    recordings.get_by_role("button", name="Close the clip").click()
    expect(player).to_have_count(0)

"""Tests of the page "Try it"."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Route, expect

from serve_app.images.drawing import encode_jpeg
from tests.integration.console.conftest import SCREENSHOTS, Open, check
from tests.support import squares
from tests.support.squares import LABELS, Square

# A square as the model knows it, on a black image of the size of the model input.
_SQUARE = """async (colour, name) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 320 });
  const pen = canvas.getContext("2d");
  pen.fillRect(0, 0, 320, 320);
  pen.fillStyle = colour;
  pen.fillRect(80, 80, 32, 32);
  return new File([await new Promise((done) => canvas.toBlob(done))], name, { type: "image/png" });
}"""
COPY_RED_SQUARE = f"""async () => {{
  const file = await ({_SQUARE})("#f00", "copied.png");
  await navigator.clipboard.write([new ClipboardItem({{ "image/png": file }})]);
}}"""
DROPPED_GREEN_SQUARE = f"""async () => {{
  const dropped = new DataTransfer();
  dropped.items.add(await ({_SQUARE})("#0f0", "dropped.png"));
  return dropped;
}}"""


def test_an_image_is_shown_with_its_boxes_and_the_same_call_to_copy(open_page: Open, tmp_path: Path) -> None:
    found = [Square("red", 2, 5), Square("blue", 20, 25), Square("green", 30, 8, 230)]
    picture = tmp_path / "it's mine.png"
    picture.write_bytes(squares.encode(squares.picture(found, scale=2)))
    page = open_page("#/try")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose an image").click()
    chooser.value.set_files(picture)
    boxes = page.locator("svg.overlay rect.box")
    expect(page.get_by_role("list", name="Detections").get_by_role("listitem")).to_have_count(2)
    expect(page.get_by_text("2 objects: 1 × red, 1 × blue.")).to_be_visible()
    red = boxes.first
    assert [float(red.get_attribute(name) or "") for name in ("x", "y", "width", "height")] == [32, 80, 64, 64]
    expect(page.get_by_role("tabpanel")).to_contain_text("--data-binary '@it'\\''s mine.png'")
    page.get_by_label("Confidence").fill("0.1")
    expect(boxes).to_have_count(3)
    page.get_by_text("Classes: all").click()
    page.get_by_role("checkbox", name="green").check()
    expect(boxes).to_have_count(1)
    page.get_by_role("tab", name="Command").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("--confidence 0.1 --classes green")
    expect(page.get_by_role("region", name="Time")).to_contain_text("inference")
    check(page, "try")


def test_an_image_is_pasted_dropped_or_photographed(open_page: Open, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(squares.encode(squares.picture([Square(label, 2 + 9 * n, 5) for n, label in enumerate(LABELS)])))
    page = open_page(
        "#/try", has_touch=True, is_mobile=True, viewport={"width": 360, "height": 740}, permissions=["clipboard-write"]
    )
    call = page.get_by_role("tabpanel")
    expect(call).to_contain_text("@parcels.jpg")
    page.evaluate(COPY_RED_SQUARE)
    page.keyboard.press("Control+V")
    expect(page.get_by_text("1 object: 1 × red.")).to_be_visible()
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": page.evaluate_handle(DROPPED_GREEN_SQUARE)})
    expect(page.get_by_text("1 object: 1 × green.")).to_be_visible()
    expect(call).to_contain_text("@dropped.png")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Take a photo").tap()
    assert chooser.value.element.get_attribute("capture") == "environment"  # a phone opens the camera on its back
    chooser.value.set_files(photo)
    expect(page.get_by_text("3 objects: 1 × red, 1 × green, 1 × blue.")).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "photo-phone.png")


def test_a_sample_that_arrives_late_does_not_replace_the_chosen_image(open_page: Open, tmp_path: Path) -> None:
    picture = tmp_path / "mine.png"
    picture.write_bytes(squares.encode(squares.picture([Square("red", 2, 5)])))
    page = open_page("#/try")
    held: list[Route] = []
    page.route("**/samples/belt.jpg", lambda route: held.append(route))
    call = page.get_by_role("tabpanel")
    expect(call).to_contain_text("@parcels.jpg")
    with page.expect_request("**/samples/belt.jpg"):
        page.get_by_role("button", name="Belt").click()
    page.locator("input[type=file]").first.set_input_files(picture)
    expect(call).to_contain_text("@mine.png")
    with page.expect_response("**/samples/belt.jpg") as late:
        held[0].continue_()
    late.value.finished()
    page.unroute_all()
    page.evaluate("fetch('console/samples/floor.jpg').then((later) => later.blob())")  # the page has read the first one
    expect(page.get_by_role("img", name="The image mine.png")).to_be_visible()
    assert page.get_by_role("img", name="The image belt.jpg").count() == 0


def test_an_image_that_cannot_be_decoded_is_sent_once_and_shows_the_reason(open_page: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    page = open_page("#/try")
    expect(page.get_by_role("tabpanel")).to_contain_text("@parcels.jpg")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/detect" in request.url else None)
    page.locator("input[type=file]").first.set_input_files(broken)
    expect(page.get_by_role("alert")).to_contain_text("This file is not an image that the server can read.")
    expect(page.locator("svg.overlay")).to_have_count(0)
    expect(page.get_by_role("img", name="The image broken.png")).to_be_hidden()  # the browser has read it too
    assert len(sent) == 1
    check(page, "broken")


def test_an_image_that_the_browser_cannot_show_is_drawn_once_without_boxes(open_page: Open, tmp_path: Path) -> None:
    scan = tmp_path / "scan.tiff"
    pixels = squares.picture([Square("red", 2, 5), Square("green", 30, 8, 230)], scale=2)
    scan.write_bytes(squares.encode(pixels, ".tiff"))
    page = open_page("#/try")
    expect(page.get_by_role("tabpanel")).to_contain_text("@parcels.jpg")
    drawings: list[bytes] = []

    def keep_drawing(route: Route) -> None:
        if route.request.headers.get("accept") != "image/jpeg":
            return route.continue_()
        response = route.fetch()
        drawings.append(response.body())
        return route.fulfill(response=response)

    page.route("**/detect?*", keep_drawing)
    page.locator("input[type=file]").first.set_input_files(scan)
    expect(page.get_by_role("img", name="The image scan.tiff")).to_be_visible()
    boxes = page.locator("svg.overlay rect.box")
    expect(boxes).to_have_count(1)
    page.get_by_label("Confidence").fill("0.1")
    expect(boxes).to_have_count(2)
    assert drawings == [encode_jpeg(pixels)]

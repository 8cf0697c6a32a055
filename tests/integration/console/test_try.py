"""Tests of the page "Try it"."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Route, expect

from tests.integration.console.conftest import Open, check
from tests.support import squares
from tests.support.squares import Square


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


def test_an_image_that_cannot_be_decoded_shows_the_reason(open_page: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    page = open_page("#/try")
    page.locator("input[type=file]").first.set_input_files(broken)
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("svg.overlay")).to_have_count(0)

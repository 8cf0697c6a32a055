"""Tests of the page "Try it"."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

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


def test_an_image_that_cannot_be_decoded_shows_the_reason(open_page: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    page = open_page("#/try")
    page.locator("input[type=file]").first.set_input_files(broken)
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("svg.overlay")).to_have_count(0)

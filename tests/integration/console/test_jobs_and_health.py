"""Tests of the pages of jobs and of health."""

from __future__ import annotations

import os
import re
from pathlib import Path

from playwright.sync_api import Route, expect

from tests.integration.conftest import Service, eventually
from tests.integration.console.conftest import UNDO_MS, Open, check
from tests.support import squares
from tests.support.squares import Square

IMAGES = 1000  # enough that a job over them can be paused and cancelled
PAGE = 24  # items that the page of a job shows at once
DASHBOARD_URL = "http://127.0.0.1:8265"


def test_a_job_over_uploaded_files_shows_its_results_and_failures(open_page: Open, tmp_path: Path) -> None:
    files = []
    for number in range(PAGE + 1):
        files.append(tmp_path / f"{number:02}.png")
        label = "red" if number < PAGE else "green"
        files[-1].write_bytes(squares.encode(squares.picture([Square(label, number, 10)])))
    files.append(tmp_path / "broken.png")
    files[-1].write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    page = open_page("#/new-job")
    page.get_by_label("Files from this computer").check()
    page.get_by_label("Images", exact=True).set_input_files(files)
    page.get_by_label("Name").fill("night")
    check(page, "new-job")
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("heading", name="night")).to_be_visible()
    expect(page.locator(".status").first).to_have_text("completed")
    expect(page.locator("figure img")).to_have_count(PAGE)
    page.get_by_label("Label").select_option("green")
    expect(page.get_by_role("img", name=files[PAGE].name)).to_be_visible()  # it is not in the first page
    expect(page.locator("figure img")).to_have_count(1)
    check(page, "job")
    page.get_by_label("Items").select_option("failed")
    expect(page.locator("figure")).to_contain_text("broken.png")
    expect(page.locator("figure")).to_contain_text("undecodable")
    expect(page.get_by_label("Label")).to_be_hidden()
    with page.expect_download() as download:
        page.get_by_role("link", name="jsonl").click()
    assert download.value.suggested_filename == "night.jsonl"
    page.get_by_role("link", name="All jobs").click()
    expect(page.get_by_role("row", name="night")).to_contain_text(f"{PAGE + 1} of {PAGE + 2}, 1 failed")
    check(page, "jobs")


def test_a_job_is_refused_at_its_field_paused_cancelled_continued_retried_and_deleted(
    open_page: Open, service: Service, tmp_path: Path
) -> None:
    first, last = tmp_path / "night/0000.png", tmp_path / f"night/{IMAGES - 1:04}.png"
    first.parent.mkdir()
    first.write_bytes(squares.encode(squares.picture([Square("red", 5, 10)])))
    for number in range(1, IMAGES):
        os.link(first, first.with_name(f"{number:04}.png"))
    page = open_page("#/new-job")
    name, path = page.get_by_label("Name"), page.get_by_label("Path")
    name.fill("a night")
    path.fill(str(first.parent))
    page.get_by_role("button", name="Start the job").click()
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(page.locator("small.error:not(:empty)")).to_have_text(re.compile("^Use letters, digits"))
    name.fill("night")
    page.get_by_role("button", name="Start the job").click()
    state = page.locator(".status").first
    page.get_by_role("button", name="Pause").click()
    expect(state).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(state).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(state).to_have_text("cancelled")
    hidden = last.rename(tmp_path / "hidden.png")
    page.get_by_role("button", name="Continue").click()
    expect(state).to_have_text("completed")
    page.get_by_label("Items").select_option("failed")
    expect(page.locator("figure")).to_contain_text(last.name)
    expect(page.locator("figure")).to_contain_text("missing")
    check(page, "failed-items")
    hidden.rename(last)
    page.get_by_role("button", name="Retry what failed").click()
    expect(page.get_by_text("Nothing to show here.")).to_be_visible()
    expect(page.get_by_role("img", name=f"{IMAGES:,} of {IMAGES:,}", exact=True)).to_be_visible()
    page.clock.install()
    page.get_by_role("button", name="Delete").click()
    row = page.get_by_role("row", name="night")
    expect(row).to_contain_text("deleting")
    page.get_by_role("button", name="Undo").click()
    expect(row).to_contain_text("completed")
    row.get_by_role("link").click()
    page.get_by_role("button", name="Delete").click()
    expect(row).to_contain_text("deleting")
    with service.client() as client:
        assert client.get("/jobs/night").status_code == 200  # the page delays the call
        page.clock.fast_forward(UNDO_MS)
        eventually(lambda: client.get("/jobs/night").status_code == 404, what="the deletion")
    expect(row).to_have_count(0)


def test_health_shows_what_serves(open_page: Open, service: Service) -> None:
    with service.client() as client:
        client.post("/detect", content=squares.encode(squares.picture([Square("red", 5, 10)])))
        client.post("/detect", content=b"\x89PNG\r\n\x1a\n" + bytes(64))
    page = open_page("#/health")
    model = page.get_by_role("region", name="Model default")
    expect(model).to_contain_text("ready")
    expect(model).to_contain_text("openvino")
    expect(page.get_by_role("region", name="Refusals")).to_contain_text("undecodable")
    link = page.get_by_role("link", name="Ray's dashboard")
    assert link.count() == 0  # no dashboard runs in the tests' cluster
    page.route("**/overview", add_dashboard)
    expect(link).to_have_attribute("href", DASHBOARD_URL)
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    check(page, "health")


def add_dashboard(route: Route) -> None:
    """Let the real server answer, and add the address of a dashboard."""
    response = route.fetch()
    route.fulfill(response=response, json=response.json() | {"dashboard_url": DASHBOARD_URL})

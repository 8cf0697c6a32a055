"""Tests of the pages of jobs and of health."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Route, expect

from tests.integration.conftest import Service
from tests.integration.console.conftest import Open, check
from tests.support import squares
from tests.support.squares import Square

DASHBOARD_URL = "http://127.0.0.1:8265"


def test_a_job_over_uploaded_files_shows_its_results_and_failures(open_page: Open, tmp_path: Path) -> None:
    files = []
    for number, label in enumerate(("red", "green", "red")):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(squares.encode(squares.picture([Square(label, 5 * number, 10)])))
    files.append(tmp_path / "broken.png")
    files[-1].write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    page = open_page("#/jobs/new")
    page.get_by_label("Files from this computer").check()
    page.get_by_label("Images", exact=True).set_input_files(files)
    page.get_by_label("Name").fill("night")
    check(page, "new-job")
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("heading", name="night")).to_be_visible()
    expect(page.locator(".status").first).to_have_text("completed")
    expect(page.locator("figure:not([hidden]) img")).to_have_count(3)
    page.get_by_label("Label").select_option("green")
    expect(page.locator("figure:not([hidden]) img")).to_have_count(1)
    check(page, "job")
    page.get_by_label("Items").select_option("failed")
    expect(page.locator("figure")).to_contain_text("broken.png")
    expect(page.locator("figure")).to_contain_text("undecodable")
    with page.expect_download() as download:
        page.get_by_role("link", name="jsonl").click()
    assert download.value.suggested_filename == "night.jsonl"
    page.get_by_role("link", name="All jobs").click()
    expect(page.get_by_role("row", name="night")).to_contain_text("3 of 4, 1 failed")
    check(page, "jobs")


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

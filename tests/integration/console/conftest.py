"""The page at ``/console`` in a real browser, against the application that ``service`` runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.integration.conftest import Service, delete_jobs
from tests.support.paths import ROOT

UNDO_MS = 10_500  # a deletion can be undone for 10 s
TIMEOUT_MS = 60_000  # long, because a machine may be many times slower than usual
SCREENSHOTS = ROOT / "build/console"
_SIZES_PX = {"light": (1280, 860), "dark": (1280, 860), "phone": (360, 740)}

Open: TypeAlias = Callable[..., Page]

expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="package")
def chromium_path() -> str:
    """Return the path of Chromium, or skip the test if there is none: ``scripts/servers`` installs it on Debian."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI"):
            raise FileNotFoundError("chromium is not installed; run scripts/servers as root")
        pytest.skip("Chromium is not installed; scripts/servers installs it as root on Debian")
    return path


# Not for the whole session: as long as Playwright runs, its event loop is the running one, so asyncio.run() fails.
@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    """Run Playwright, of which a process can have only one."""
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="package")
def browser(playwright: Playwright, chromium_path: str) -> Iterator[Browser]:
    """Run Chromium."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to run as root with a sandbox
    browser = playwright.chromium.launch(executable_path=chromium_path, args=sandbox)
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[Open]:
    """Return a function that opens a page such as ``#/try``. The browser must report no error until the test's end.

    An address of another application may be in front: ``http://127.0.0.1:8000/guarded#/try``. Further arguments are
    those of a browser's context, such as ``has_touch``.
    """
    errors: list[str] = []
    with ExitStack() as stack:

        def open_one(address: str, **options: Any) -> Page:
            server, _, place = address.partition("#")
            usual: dict[str, Any] = {"viewport": {"width": 1280, "height": 860}, "reduced_motion": "reduce"}
            context = browser.new_context(**usual | options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(TIMEOUT_MS)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: errors.append(message.text) if is_problem(message.text) else None)
            page.goto(f"{server or service.url}/console#{place}")
            return page

        yield open_one
    assert errors == []


@pytest.fixture(autouse=True)
def jobs(service: Service) -> Iterator[None]:
    """Delete all jobs at the end of a test."""
    yield
    delete_jobs(service)


def is_problem(text: str) -> bool:
    """Return whether a message of the browser's console is a refusal by the content security policy."""
    return "Content Security Policy" in text or "Content-Security-Policy" in text


def check(page: Page, name: str) -> None:
    """Check that the page is accessible and fits a phone, and save screenshots of it in ``build/console``."""
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in {"serious", "critical"}]
    assert not serious, [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for kind, (width_px, height_px) in _SIZES_PX.items():
        page.emulate_media(color_scheme="dark" if kind == "dark" else "light")
        page.set_viewport_size({"width": width_px, "height": height_px})
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=SCREENSHOTS / f"{name}-{kind}.png", full_page=True)
        if kind == "phone":
            assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 860})


def media(stream_folders: dict[str, str]) -> Path:
    """Return the folder from which streams and jobs may read."""
    return Path(stream_folders["media_dirs"])

"""Chromium with pages that know whether they are hidden."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, Playwright

from scripts.launch import StartFailed

_WINDOW_PX = "1280,2200"
_POLL_S = 0.1


@contextmanager
def chromium(path: str) -> Iterator[str]:
    """Run Chromium, and yield the address for ``tabs``. Raise StartFailed if Chromium does not start."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to run as root with a sandbox
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        port = Path(profile, "DevToolsActivePort")  # Chromium writes this file when it listens
        options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"]
        command = [path, *options, *sandbox, f"--window-size={_WINDOW_PX}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (port.exists() and port.read_text()):
                if process.poll() is not None:
                    raise StartFailed(f"Chromium ended with status {process.returncode}; run {path} to see why")
                time.sleep(_POLL_S)
            yield f"http://127.0.0.1:{port.read_text().split()[0]}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def tabs(playwright: Playwright, address: str) -> Iterator[BrowserContext]:
    """Connect Playwright to Chromium, and yield its tabs, which stay open afterwards.

    Without ``no_defaults``, Playwright would make every page act as if it were in front of the others.
    """
    browser = playwright.chromium.connect_over_cdp(address, no_defaults=True)
    yield browser.contexts[0]
    browser.close()

"""Downloads of a release server's file, as tests start them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.network.download import Download, DownloadFailed
from tests.support.release_server import ALLOWED, ReleaseServer


async def fetch(server: ReleaseServer, path: Path, **changes: Any) -> list[tuple[int, int]]:
    """Download the server's file, and return the reports."""
    reports: list[tuple[int, int]] = []
    options: dict[str, Any] = {
        "hosts": {server.host},
        "max_bytes": 10_000_000,
        "guard": ALLOWED,
        "report": lambda *report: reports.append(report),
    }
    url = changes.pop("url", f"https://{server.host}/release/a.pt")
    await Download(url, path, **options | changes).run()
    return reports


async def refusal(server: ReleaseServer, path: Path, **changes: Any) -> str:
    """Return the reason why a download fails."""
    with pytest.raises(DownloadFailed) as caught:
        await fetch(server, path, **changes)
    return str(caught.value)

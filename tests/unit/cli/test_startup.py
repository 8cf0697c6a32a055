"""Tests of what ``sightline serve`` prints while the service starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.startup import ExportProgress, addresses
from serve_app.config import ModelArgs

HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
)


@contextmanager
def exporting(target: Path) -> Iterator[None]:
    """Hold the lock of an export in another process, as a replica does."""
    command = [sys.executable, "-c", HOLD, f"{target}.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.stdin.close()


@pytest.mark.parametrize(
    ("http", "url"),
    [
        ({"host": "127.0.0.1", "port": 8001}, "http://127.0.0.1:8001"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8000"),
        ({"host": "::1"}, "http://[::1]:8000"),
        (None, "http://127.0.0.1:8000"),
    ],
)
def test_the_addresses_lead_to_this_machine(http: Any, url: str) -> None:
    config = {"http_options": http, "applications": [{"route_prefix": "/"}, {"route_prefix": "/second"}]}
    assert addresses(config, "127.0.0.1:8265").splitlines() == [
        f"serving    {url}",
        f"console    {url}/console",
        f"docs       {url}/docs",
        f"serving    {url}/second",
        f"console    {url}/second/console",
        f"docs       {url}/second/docs",
        "dashboard  http://127.0.0.1:8265 (`ray get-auth-token` prints its token)",
        "stop       press Ctrl-C",
    ]
    assert "dashboard" not in addresses(config, None)


def test_an_export_is_reported_when_it_starts_and_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "best-0123-640px-fp32-openvino1-ultralytics8_openvino_model"
    lines: list[str] = []
    progress = ExportProgress([ModelArgs(weights=Path("my/best.pt"), cache_dir=tmp_path)], lines.append)
    progress.report()
    with exporting(target):
        progress.report()
        progress.report()
        assert lines == [f"exporting best.pt, once: the next start uses the export in {tmp_path}"]
        target.mkdir()
    progress.report()
    assert lines[1:] == ["exported best.pt in 0 s"]


def test_a_failed_export_is_not_reported_as_complete(tmp_path: Path) -> None:
    lines: list[str] = []
    progress = ExportProgress([ModelArgs(weights=Path("best.pt"), cache_dir=tmp_path)], lines.append)
    with exporting(tmp_path / "best-0123.onnx"):
        progress.report()
    progress.report()
    assert len(lines) == 1


def test_a_long_export_is_reported_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.cli.startup._REPORT_INTERVAL_S", 0.0)
    lines: list[str] = []
    progress = ExportProgress([ModelArgs(weights=Path("best.pt"), cache_dir=tmp_path)], lines.append)
    with exporting(tmp_path / "best-0123.onnx"):
        progress.report()
        progress.report()
    assert lines[1:] == ["exporting best.pt: 0 s"] * 2


def test_a_cache_that_does_not_exist_has_no_exports(tmp_path: Path) -> None:
    ExportProgress([ModelArgs(cache_dir=tmp_path / "none")], pytest.fail).report()

"""Tests of scripts/streams.py, which is ``sightline streams``, with the whole service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import LONG_TIMEOUT_S, Service, stream_ids
from tests.integration.streams.conftest import status_when
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("streams")


def run_script(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/streams.py"), *arguments],
        env=os.environ | {"SIGHTLINE_URL": service.url, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=LONG_TIMEOUT_S,
        check=False,
    )


def test_the_script_starts_lists_watches_and_stops(service: Service, video: Path) -> None:
    def script(*arguments: str) -> str:
        done = run_script(service, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "lot" in script("start", "--id", "lot", "--source", str(video), "--confidence", "0.9")
    status_when(service, "the end", state="completed")
    assert "squares.avi" in script("list")
    assert "completed" in script("watch", "lot")
    (watched,) = map(json.loads, script("watch", "lot", "--json").splitlines())
    assert watched["state"] == "completed"
    assert "red" in {detection["label"] for detection in watched["latest"]["detections"]}
    assert "lot" in script("stop", "lot")
    assert "lot" not in script("list")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["start", "--id", "lot", "--source", "/etc/hostname"], "SERVE_APP_MEDIA_DIRS"),
        (["start", "--id", "lot", "--source", "ftp://host/file"], "rtsp"),
        (["start", "--id", "lot", "--source", "{video}", "--classes", "unicorn"], "no class 'unicorn'"),
        (["stop", "lot"], "does not exist"),
        (["watch", "lot"], "does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_script_reports_a_refusal_in_one_sentence(
    service: Service, video: Path, arguments: list[str], sentence: str
) -> None:
    done = run_script(service, *(argument.format(video=video) for argument in arguments))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert stream_ids(service.url) == []

"""Tests of ``sightline models`` with a real server."""

from __future__ import annotations

import json

from tests.support.command import sightline
from tests.support.stream_server import serve_streams


def test_the_models_of_the_server_are_listed() -> None:
    with serve_streams() as served:
        table = sightline("models", "--url", served.url, COLUMNS="160").stdout
        assert [line.split()[:2] for line in table.splitlines() if "ready" in line or "asleep" in line] == [
            ["default", "ready"],
            ["plates", "asleep"],
        ]
        default, plates = json.loads(sightline("models", "--json", "--url", served.url).stdout)
        assert (default["labels"], plates["state"]) == (["cat", "dog"], "asleep")

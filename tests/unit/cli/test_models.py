"""Tests of ``sightline models`` with a real server."""

from __future__ import annotations

import json

from serve_app.cli.models import _inputs
from serve_app.schemas.detect import InputSize
from serve_app.schemas.models import ModelStatus
from serve_app.types import InputShape
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


def test_all_sizes_of_a_models_inputs_are_listed_with_the_width_first() -> None:
    shapes = (InputShape(384, 640), InputShape(640, 384), InputShape.square(640))
    model = ModelStatus(name="default", state="ready", input_shapes=[InputSize.of(shape) for shape in shapes])
    assert _inputs(model) == "640x640, 384x640, 640x384"
    older = ModelStatus(name="default", state="ready", input_width_px=640, input_height_px=384)
    assert _inputs(older) == "640x384"
    assert not _inputs(ModelStatus(name="plates", state="asleep"))

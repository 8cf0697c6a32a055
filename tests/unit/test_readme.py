"""What the README says is so."""

from __future__ import annotations

import json
import re

import pytest

from serve_app import config, errors
from serve_app.schemas.detect import DetectResponse
from serve_app.telemetry import metrics as telemetry
from serve_app.telemetry.metrics import Metric
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
SECTIONS = config.AppArgs.model_fields


def settings() -> list[tuple[str, str]]:
    """Each setting as ``section.name``, and its default as text."""
    return [
        (f"{section}.{name}", str(value))
        for section, values in config.parse_args({})
        for name, value in values
        if section in SECTIONS
    ]


@pytest.mark.parametrize(("name", "default"), settings())
def test_every_setting_is_in_the_table_with_its_default(name: str, default: str) -> None:
    shown = "" if default == "None" else f"`{default}`"
    assert re.search(rf"^\| `{re.escape(name)}` \| `SERVE_APP_\w+` \| {re.escape(shown)} \|", README, re.MULTILINE)


def test_every_variable_is_in_the_table() -> None:
    assert config.variables() - set(re.findall(r"SERVE_APP_\w+", README)) == set()


@pytest.mark.parametrize(
    "metric", [value for value in vars(telemetry).values() if isinstance(value, Metric)], ids=lambda metric: metric.name
)
def test_every_metric_is_in_the_table(metric: Metric) -> None:
    name = f"ray_{metric.name}" + ("_total" if metric.kind == "counter" else "")
    assert f"| `{name}` | {', '.join(f'`{tag}`' for tag in metric.tags)} |" in README


@pytest.mark.parametrize(
    "code", sorted({cls.code for cls in vars(errors).values() if isinstance(cls, type)} - {"start", "conflict"})
)
def test_every_error_code_is_in_the_table(code: str) -> None:
    assert f"`{code}`" in README


def test_the_answer_shown_has_the_form_of_an_answer() -> None:
    shown = json.loads(re.search(r"```json\n(.*?)```", README, re.DOTALL)[1])
    assert DetectResponse.model_validate(shown).model_dump() == shown
    assert shown["count"] == len(shown["detections"])


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?<![\w/])(?:scripts|configs)/[\w./]+\b", README))))
def test_every_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()

"""What the README says is so."""

from __future__ import annotations

import json
import re
from typing import get_args

import pytest

from serve_app import config, errors
from serve_app.api import bodies, streams, url_fetcher
from serve_app.api.access import middleware
from serve_app.deployments import stubs
from serve_app.schemas.detect import DetectResponse
from serve_app.telemetry import metrics as telemetry
from serve_app.telemetry.metrics import Metric
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
SECTIONS = config.AppArgs.model_fields
ERRORS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.ServeAppError)]


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


@pytest.mark.parametrize("code", sorted({cls.code for cls in ERRORS} - {"start", "conflict"}))
def test_every_error_code_is_in_the_table(code: str) -> None:
    assert f"`{code}`" in README


LIMITS = re.findall(
    r"^\| `([\w.]+)` \| ([^|]+) \| [^|]+ \| (\d{3}) `(\w+)` \| [^|]+ \|$",
    README[README.index("### What is refused, and what to raise") : README.index("## API keys")],
    re.MULTILINE,
)


def test_every_limit_that_a_refusal_names_is_in_the_table_once_and_no_other() -> None:
    assert sorted(name for name, *_ in LIMITS) == sorted(set(get_args(errors.Limit)) - {""})


@pytest.mark.parametrize(("name", "default", "status_code", "code"), LIMITS)
def test_a_limit_that_is_called_as_a_setting_is_one_and_the_others_are_fixed(
    name: str, default: str, status_code: str, code: str
) -> None:
    assert ("." in name) == (name in dict(settings()))
    if "." in name:
        assert default == f"`{dict(settings())[name]}`"
    (status,) = {cls.status_code for cls in ERRORS if cls.code == code}
    assert int(status_code) == status


def test_the_fixed_limits_are_as_the_table_says() -> None:
    fixed = {name: default.removeprefix("fixed: ") for name, default, *_ in LIMITS if default.startswith("fixed: ")}
    assert fixed == {
        "json_body": f"{middleware._MAX_BODY_BYTES >> 20} MiB",
        "followers": str(streams._MAX_FOLLOWERS),
        "supervisor_calls": str(stubs.SUPERVISOR_MAX_CALLS),
        "url_fetches": str(url_fetcher._FETCHES_AT_ONCE),
        "url_fetches_per_key": str(url_fetcher._FETCHES_OF_A_KEY),
    }
    assert f'`{{"url": …}}`, more than {bodies._MAX_JSON_BYTES >> 10} KiB' in README
    defaults, slots = {name: default for name, default, *_ in LIMITS}, config.parse_args({}).preprocessor
    assert defaults["max_queued_requests"] == f"`{slots.max_calls - slots.slots}`"


def test_the_answer_shown_has_the_form_of_an_answer() -> None:
    found = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert found is not None
    shown = json.loads(found[1])
    assert DetectResponse.model_validate(shown).model_dump() == shown
    assert shown["count"] == len(shown["detections"])


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?<![\w/])(?:scripts|configs)/[\w./]+\b", README))))
def test_every_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()

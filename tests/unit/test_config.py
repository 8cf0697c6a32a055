from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config import parse_args
from serve_app.errors import ConfigError


def test_a_misspelt_setting_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="confidance"):
        parse_args({"detect": {"confidance": 0.4}})


def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CONFIDANCE", "0.4")
    with pytest.raises(ConfigError, match="SERVE_APP_CONFIDANCE"):
        parse_args({})


def test_a_variable_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", "0.25")
    assert parse_args({}).detect.confidence == 0.25


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_WEIGHTS", "")
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", "")
    assert parse_args({}).model.weights == Path("codes")
    assert parse_args({}).detect.confidence == 0.5


def test_the_config_stands_above_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", "0.25")
    assert parse_args({"detect": {"confidence": 0.4}}).detect.confidence == 0.4


@pytest.mark.parametrize("value", ["7", "nan", "-1", "0", "half"])
def test_a_variable_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", value)
    with pytest.raises(ConfigError, match=r"detect\.confidence"):
        parse_args({})


def test_a_setting_without_a_value_is_unset() -> None:
    """As YAML's ``weights:`` and an empty section."""
    assert parse_args({"model": {"weights": None, "engine": ""}, "detect": None}) == parse_args({})

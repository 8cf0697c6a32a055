from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.config import parse_args
from serve_app.errors import ConfigError


def test_a_misspelt_setting_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="confidance"):
        parse_args({"detect": {"confidance": 0.4}})


@pytest.mark.parametrize("key", ["MAX_REQUESTS", "Max_requests", "_env_prefix", "__pydantic_self__", 1])
def test_a_key_that_is_not_exactly_a_settings_name_is_refused(key: Any) -> None:
    with pytest.raises(ConfigError, match=rf"limits\.{key}"):
        parse_args({"limits": {key: 99}})
    with pytest.raises(ConfigError, match=rf"models\.plates\.{key}"):
        parse_args({"models": {"plates": {"weights": "plates.onnx", key: 99}}})
    with pytest.raises(ConfigError, match=rf"user_config\.model\.{key}"):
        parse_args({}).detectors()["default"].with_user_config({"model": {key: 99}})


def test_a_variable_in_lower_case_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("serve_app_slots", "3")
    assert parse_args({}).preprocessor.slots == 64


def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CONFIDANCE", "0.4")
    with pytest.raises(ConfigError, match="SERVE_APP_CONFIDANCE"):
        parse_args({})


def test_a_variable_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", "0.25")
    assert parse_args({}).detect.confidence == 0.25


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_WEIGHTS", "")
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", "")
    assert parse_args({}).model.weights == Path("codes")
    assert parse_args({}).detect.confidence == 0.5


def test_the_yaml_overrides_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", "0.25")
    assert parse_args({"detect": {"confidence": 0.4}}).detect.confidence == 0.4


@pytest.mark.parametrize("value", ["7", "nan", "-1", "0", "half"])
def test_a_variable_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", value)
    with pytest.raises(ConfigError, match=r"detect\.confidence"):
        parse_args({})


def test_a_setting_without_a_value_is_unset() -> None:
    """In YAML, ``weights:`` without a value is null. A section without settings is null too."""
    assert parse_args({"model": {"weights": None, "engine": ""}, "detect": None}) == parse_args({})


def test_user_config_overrides_the_deployed_settings_and_keeps_the_rest() -> None:
    deployed = parse_args({"detect": {"confidence": 0.4}, "batcher": {"job_weight": 2}}).detectors()["default"]
    changed = deployed.with_user_config({"detect": {"iou": 0.5}})
    assert (changed.detect.confidence, changed.detect.iou, changed.batcher.job_weight) == (0.4, 0.5, 2)
    assert deployed.with_user_config(None) == deployed


def test_only_a_new_model_or_batch_size_needs_a_new_engine() -> None:
    deployed = parse_args({}).detectors()["default"]
    assert deployed.with_user_config({"detect": {"iou": 0.5}, "batcher": {"job_weight": 2}}).can_reuse_engine_of(
        deployed
    )
    assert not deployed.with_user_config({"batcher": {"max_batch_size": 3}}).can_reuse_engine_of(deployed)
    assert not deployed.with_user_config({"model": {"weights": "other.onnx"}}).can_reuse_engine_of(deployed)


def test_a_hash_is_not_applied_to_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_WEIGHTS", "a.pt")
    monkeypatch.setenv("SERVE_APP_WEIGHTS_SHA256", "a" * 64)
    args = parse_args({"models": {"plates": {"weights": "plates.onnx"}}})
    deployed = args.detectors()
    assert (deployed["default"].model.weights_sha256, deployed["plates"].model.weights_sha256) == ("a" * 64, None)
    assert deployed["default"].with_user_config({"model": {"precision": "fp32"}}).model.weights_sha256 == "a" * 64
    assert deployed["default"].with_user_config({"model": {"weights": "b.onnx"}}).model.weights_sha256 is None


@pytest.mark.parametrize("models", [{"default": {"weights": "a.onnx"}}, {"a/b": {"weights": "a.onnx"}}, {"plates": {}}])
def test_a_named_model_needs_its_own_name_and_weights(models: dict[str, dict[str, str]]) -> None:
    with pytest.raises(ConfigError, match="models"):
        parse_args({"models": models})


@pytest.mark.parametrize("empty", [{"detect": None}, {"batcher": {"max_batch_size": None}}, {"model": None}, {}])
def test_user_config_without_values_changes_nothing(empty: dict[str, object]) -> None:
    deployed = parse_args({"detect": {"confidence": 0.25}, "batcher": {"max_batch_size": 32}}).detectors()["default"]
    changed = deployed.with_user_config(empty)
    assert (changed.detect, changed.batcher, changed.can_reuse_engine_of(deployed)) == (
        deployed.detect,
        deployed.batcher,
        True,
    )

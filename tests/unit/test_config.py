from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.config import parse_args
from serve_app.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"detect": {"confidance": 0.4}}, "detect.confidance: there is no such setting; did you mean confidence?"),
        ({"modle": {"weights": "a.pt"}}, "modle: there is no such setting; did you mean model?"),
        ({"limits": {"Max_Requests": 9}}, "limits.Max_Requests: there is no such setting; did you mean max_requests?"),
        ({"confidence": 0.4}, "confidence: there is no such setting; did you mean detect.confidence?"),
        ({"batcher": {"slots": 9}}, "batcher.slots: there is no such setting; did you mean preprocessor.slots?"),
        ({"detect": {"x": 1}}, "detect.x: there is no such setting; use confidence, iou, max_detections, agnostic_nms"),
        (
            {"models": {"detect": {"weights": "a.pt", "thread": 2}}},
            "models.detect.thread: there is no such setting; did you mean threads?",
        ),
        (
            {"detect": {"confidence": 2, "iuo": 1}},
            "detect.confidence: Input should be less than or equal to 1 (got 2); "
            "detect.iuo: there is no such setting; did you mean iou?",
        ),
    ],
    ids=str,
)
def test_a_misspelt_setting_is_refused_with_the_nearest_known_name(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_args(settings)
    assert raised.value.detail == sentence


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
    monkeypatch.setenv("SERVE_APP_X", "1")
    with pytest.raises(ConfigError) as raised:
        parse_args({})
    assert raised.value.detail == (
        "SERVE_APP_CONFIDANCE (did you mean SERVE_APP_CONFIDENCE?), SERVE_APP_X: unknown setting in the environment; "
        "correct the name or unset it"
    )


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


@pytest.mark.parametrize(
    "celery",
    [
        {"broker_url": "sqs://"},
        {"broker_url": "redis://127.0.0.1/0", "queue_url": "https://sqs.eu-west-1.amazonaws.com/1/shop"},
        {"queue_url": "https://sqs.eu-west-1.amazonaws.com/1/shop"},
    ],
)
def test_a_queue_at_sqs_is_named_by_its_url_and_other_queues_are_not(celery: dict[str, str]) -> None:
    parse_args({"jobs": {"celery": {"broker_url": "sqs://", "queue_url": "https://sqs.test/1/shop"}}})
    with pytest.raises(ConfigError, match=r"^jobs\.celery\.queue_url: "):
        parse_args({"jobs": {"celery": celery}})


def test_the_owner_of_celery_tasks_is_required_where_keys_are_configured(tmp_path: Path) -> None:
    celery = {"broker_url": "redis://:hush@127.0.0.1/0"}
    parse_args({"jobs": {"celery": celery}})
    keys = {"keys_file": str(tmp_path / "keys.yaml")}
    with pytest.raises(ConfigError, match=r"^jobs\.celery\.owner: ") as error:
        parse_args({"access": keys, "jobs": {"celery": celery}})
    assert "hush" not in str(error.value)
    parse_args({"access": keys, "jobs": {"celery": celery | {"owner": "shop"}}})


def test_a_brokers_password_is_not_shown() -> None:
    args = parse_args({"jobs": {"celery": {"broker_url": "redis://:hush@127.0.0.1/0"}}})
    assert "hush" not in repr(args)
    assert "hush" not in args.model_dump_json()
    with pytest.raises(ConfigError) as error:
        parse_args({"jobs": {"celery": {"broker_url": "redis://:hush@127.0.0.1/0", "queue": "a b"}}})
    assert "hush" not in str(error.value)


def test_no_image_is_kept_by_default() -> None:
    assert parse_args({}).collect.folder is None


def test_a_range_of_uncertain_confidences_must_not_be_empty() -> None:
    with pytest.raises(ConfigError, match="collect: Value error, uncertain_from must not exceed uncertain_below"):
        parse_args({"collect": {"uncertain_from": 0.7}})

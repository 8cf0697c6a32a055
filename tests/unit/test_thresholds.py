"""Tests of confidence thresholds for each class: how they are written, and what they mean for a model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.config import DetectArgs, parse_args
from serve_app.errors import ConfigError, InvalidParameter
from serve_app.schemas.detect import DetectSettings
from serve_app.thresholds import to_text
from serve_app.types import DetectOptions, EngineInfo, InputShape, ModelInfo

ENGINE = EngineInfo(
    "fake", "1", "fake", ("person", "car", "ratio 4:3", "person, sitting"), InputShape.square(64), end_to_end=False
)


def model(**defaults: Any) -> ModelInfo:
    """Return a model whose Detector has these settings in its section ``detect``."""
    return ModelInfo(ENGINE, "1", DetectArgs(**defaults).to_options(ENGINE))


def options(wanted: Any, /, **defaults: Any) -> DetectOptions:
    """Return the thresholds of a request whose ``confidence`` is ``wanted``."""
    return DetectSettings(confidence=wanted).to_params().to_options(model(**defaults))


@pytest.mark.parametrize(
    ("text", "others", "by_class"),
    [
        ("0.3", 0.3, {}),
        ("person:0.6,car:0.4,*:0.2", 0.2, {0: 0.6, 1: 0.4}),
        ("person:0.6", 0.5, {0: 0.6}),
        (" person : 0.6 , *:0.2", 0.2, {0: 0.6}),
        ("1:0.6", 0.5, {1: 0.6}),
        ("*:0.2", 0.2, {}),
        ("ratio 4:3:0.6,car:1", 0.5, {1: 1.0, 2: 0.6}),
        ("person, sitting:0.6,*:0.01", 0.01, {3: 0.6}),
    ],
)
def test_thresholds_in_a_query_and_as_an_object_mean_the_same(
    text: str, others: float, by_class: dict[int, float]
) -> None:
    found = options(text)
    assert (found.confidence, dict(found.class_confidence)) == (others, by_class)
    setting = DetectSettings(confidence=text).confidence
    assert options(setting) == options(json.loads(json.dumps(setting))) == found
    assert setting is not None
    assert options(to_text(setting)) == found


def test_a_class_without_a_threshold_of_its_own_has_that_of_the_others() -> None:
    found = options("person:0.6,*:0.2")
    assert [found.threshold_of(class_id) for class_id in range(3)] == [0.6, 0.2, 0.2]


def test_the_defaults_of_a_detector_apply_to_classes_that_a_request_does_not_name() -> None:
    defaults = "person:0.7,car:0.3,*:0.4"
    assert dict(options(None, confidence=defaults).class_confidence) == {0: 0.7, 1: 0.3}
    assert dict(options("car:0.9", confidence=defaults).class_confidence) == {0: 0.7, 1: 0.9}
    assert options("car:0.9", confidence=defaults).confidence == 0.4
    for overriding in (0.25, "*:0.25"):
        assert options(overriding, confidence=defaults) == DetectOptions(0.25, 0.7, 300)


@pytest.mark.parametrize(
    ("confidence", "problem"),
    [
        ("person:2", "the threshold of 'person' is 2; use a number from 0.01 to 1"),
        ("person:nan,*:0.5", "the threshold of 'person' is nan; use a number from 0.01 to 1"),
        ({"person": "high"}, "the threshold of 'person' is high; use a number from 0.01 to 1"),
        ({"person": True}, "the threshold of 'person' is True; use a number from 0.01 to 1"),
        ({"person": None}, "the threshold of 'person' is None; use a number from 0.01 to 1"),
        ("person:high", "'person:high' does not end in a colon and a number; write it as person:0.6"),
        ("person:0.6,car", "'car' does not end in a colon and a number; write it as person:0.6"),
        ("person:0.6,person:0.5", "the class 'person' has two thresholds; give it one"),
        ("person:0_6", "'person:0_6' does not end in a colon and a number; write it as person:0.6"),
        (":0.6", "a class must be a label or a class id, such as person, or *"),
        ({"\ud800": 0.6}, "a class must be a label or a class id, such as person, or *"),
        ({}, "no class is named; name at least one, such as person, or *"),
        ("0_1", "a number must not contain underscores"),
        ("person:0.6, ", "'' does not end in a colon and a number; write it as person:0.6"),
        ("person", "the text is neither a number nor a number for each class; write it as 0.5 or person:0.5"),
        ("a_b", "the text is neither a number nor a number for each class; write it as 0.5 or person:0.5"),
        ("0.5,0.6", "the text is neither a number nor a number for each class; write it as 0.5 or person:0.5"),
        ("", "the text is neither a number nor a number for each class; write it as 0.5 or person:0.5"),
        (True, "a threshold must be a number; use a number from 0.01 to 1"),
        (0, "Input should be greater than or equal to 0.01"),
        ([0.5], "Input should be a valid number"),
    ],
    ids=repr,
)
def test_invalid_thresholds_are_refused_with_one_sentence(confidence: Any, problem: str) -> None:
    with pytest.raises(ValidationError) as raised:
        DetectSettings(confidence=confidence)
    (error,) = raised.value.errors()
    assert (error["loc"], error["msg"]) == (("confidence",), problem)


def test_a_class_that_the_model_lacks_is_named() -> None:
    with pytest.raises(InvalidParameter) as raised:
        options("bicycle:0.5")
    assert str(raised.value) == "confidence: the model fake has no class 'bicycle'; GET /models lists its labels"
    with pytest.raises(ConfigError) as refused:
        model(confidence={"bicycle": 0.5})
    assert str(refused.value) == (
        "detect.confidence: the model fake has no class 'bicycle'; correct it, or set detect.confidence in the "
        "user_config of this model's Detector"
    )


@pytest.mark.parametrize("by_class", ["person:0.6,0:0.5", "0:0.6,person:0.6"])
def test_a_class_that_is_given_by_its_label_and_by_its_id_is_refused(by_class: str) -> None:
    second = by_class.split(",")[1].split(":")[0]
    problem = f"confidence: the class of '{second}' has two thresholds"
    with pytest.raises(InvalidParameter, match=f"^{problem}; give it one"):
        options(by_class)
    with pytest.raises(ConfigError, match=rf"^detect\.{problem}; correct it"):
        model(confidence=by_class)


def test_an_id_that_is_also_a_label_is_no_second_name() -> None:
    digits = replace(ENGINE, labels=("1", "0"))
    params = DetectSettings(confidence="0:0.6,1:0.5").to_params()
    assert dict(params.to_options(ModelInfo(digits, "1", DetectOptions(0.5, 0.7, 300))).class_confidence) == {
        1: 0.6,
        0: 0.5,
    }


@pytest.mark.parametrize("label", ["a:0.5,b", " a", "a:0.5,", ",b"])
def test_a_label_that_a_query_cannot_have_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent in a query; use its class id"):
        to_text({"car": 0.4, label: 0.6})


def test_the_settings_take_thresholds_from_the_yaml_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    by_class = {"person": 0.6, "*": 0.4}
    assert parse_args({"detect": {"confidence": by_class}}).detect.confidence == by_class
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", "person:0.6,*:0.4")
    monkeypatch.setenv("SERVE_APP_AGNOSTIC_NMS", "true")
    args = parse_args({})
    assert (args.detect.confidence, args.detect.agnostic_nms) == (by_class, True)
    detector = args.detectors()["default"]
    changed = detector.with_user_config({"detect": {"confidence": "car:0.9"}})
    assert changed.detect.to_options(ENGINE) == DetectOptions(
        0.5, 0.7, 300, class_confidence=((1, 0.9),), agnostic_nms=True
    )


def test_settings_keep_their_thresholds_as_json() -> None:
    settings = DetectSettings(confidence="person:0.6,*:0.4", agnostic_nms=True, mask="rle")
    assert DetectSettings.model_validate_json(settings.model_dump_json()) == settings
    assert json.loads(settings.model_dump_json())["confidence"] == {"person": 0.6, "*": 0.4}


def test_suppression_between_classes_follows_the_request_or_else_the_detector() -> None:
    served = model(agnostic_nms=True)
    assert DetectSettings().to_params().to_options(served).agnostic_nms
    assert not DetectSettings(agnostic_nms=False).to_params().to_options(served).agnostic_nms

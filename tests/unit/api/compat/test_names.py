"""The names under which the clients of other servers know the models."""

from __future__ import annotations

import pytest

from serve_app.api.compat.names import ModelNames
from serve_app.config import parse_args
from serve_app.errors import ConfigError, NotFound


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("default", "default"),
        ("yolo26n", "default"),
        ("YOLO26n.onnx", "default"),
        ("yolo26n.pt", "default"),
        ("plates", "Plates"),
        ("PLATES.engine", "Plates"),
    ],
)
def test_a_model_is_found_by_its_name_and_by_its_weights(name: str, model: str) -> None:
    names = ModelNames(parse_args({"model": {"weights": "a/yolo26n.pt"}, "models": {"Plates": {"weights": "b.pt"}}}))
    assert names.find(name) == model
    assert names.shown == ("yolo26n", "Plates")


def test_the_name_of_another_model_is_stronger_than_the_name_of_the_weights() -> None:
    names = ModelNames(parse_args({"models": {"codes": {"weights": "b.pt"}}}))
    assert names.find("codes") == "codes"
    assert names.shown == ("default", "codes")


@pytest.mark.parametrize(
    ("one", "other"), [("Plates", "plates"), ("a.pt", "a"), ("a.onnx", "A"), ("Default", "default")]
)
def test_names_that_clients_could_confuse_are_refused(one: str, other: str) -> None:
    models = {name: {"weights": "b.pt"} for name in (one, other) if name != "default"}
    with pytest.raises(ConfigError, match=f"^models: .*'{one}'.* rename one of them"):
        ModelNames(parse_args({"models": models}))


def test_an_unknown_name_is_refused_with_the_known_names() -> None:
    with pytest.raises(NotFound, match="no model is named 'nope'; use one of codes"):
        ModelNames(parse_args({})).find("nope")

"""The names under which the clients of other servers know the models."""

from __future__ import annotations

import pytest

from serve_app.api.compat.names import ModelNames
from serve_app.config import parse_args
from serve_app.errors import NotFound


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


def test_an_exact_name_is_stronger_than_one_in_other_letters() -> None:
    models = {name: {"weights": "b.pt"} for name in ("Plates", "plates", "a.pt", "a")}
    names = ModelNames(parse_args({"models": models}))
    assert [names.find(name) for name in models] == list(models)


def test_an_unknown_name_is_refused_with_the_known_names() -> None:
    with pytest.raises(NotFound, match="no model is named 'nope'; use one of codes"):
        ModelNames(parse_args({})).find("nope")

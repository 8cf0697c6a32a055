"""The names of published models, and what is said about other names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from serve_app.errors import ModelError
from serve_app.models.published import NAMES, ULTRALYTICS, fetch, suggestion


def test_the_names_are_those_of_ultralytics_models_for_the_supported_tasks() -> None:
    """If Ultralytics publishes further models, they must be added to one of the two lists."""
    other_tasks = ("-sem.pt", "-depth.pt", "-sem-ade20k.pt", "-reid.onnx")
    unsupported = ("-world.pt", "-worldv2.pt", "-pose-p6.pt", "-grayscale.pt")
    families = ("yolov8", "yolo11", "yolo12", "yolo26")
    found = {name for name in GITHUB_ASSETS_NAMES if name.startswith(families)}
    assert {name for name in found if not name.endswith((*other_tasks, *unsupported))} == NAMES
    assert len(NAMES) == 100


def test_the_release_is_the_one_that_ultralytics_uses() -> None:
    source = Path(sys.modules["ultralytics.utils.downloads"].__file__ or "").read_text()
    address, _, tag = ULTRALYTICS.address.rpartition("/")
    assert address == "https://github.com/ultralytics/assets/releases/download"
    assert f'release: str = "{tag}"' in source


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("yolo26n-sem.pt", "yolo26n-sem.pt is published, but its task or its kind of images is not supported"),
        ("yolov8x-pose-p6.pt", "use a model such as yolov8x.pt"),
        ("yolo26n-reid.onnx", "use a model such as yolo26n.pt"),
        ("yolov26n.pt", "publishes no model yolov26n.pt; if you mean the published model yolo26n.pt, set"),
        ("YOLO11S.pt", "if you mean the published model yolo11s.pt, set that name"),
        ("yolo12m", "if you mean the published model yolo12m.pt, set that name"),
        ("best.pt", "publishes no model best.pt"),
        ("../yolo26n.pt", "publishes no model"),
    ],
)
def test_any_other_name_is_refused_without_a_request(name: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache/weights"
    with pytest.raises(ModelError) as refusal:
        fetch(name, folder)
    assert says in refusal.value.detail
    assert not folder.exists()


@pytest.mark.parametrize(
    "name",
    ["best.pt", "missing.pt", "last.pt", "model", "codes", "plates.pt", "yolov9c.pt", "yolov10n.pt", "yolov5n.pt"],
)
def test_another_model_gets_no_suggestion(name: str) -> None:
    assert suggestion(name) == ""


@pytest.mark.parametrize(
    ("name", "meant"),
    [("yolov26n.pt", "yolo26n.pt"), ("yolo8n.pt", "yolov8n.pt"), ("yolo26n-distil.pt", "yolo26n-distill.pt")],
)
def test_a_misspelt_name_gets_the_right_one(name: str, meant: str) -> None:
    assert suggestion(name) == f"; if you mean the published model {meant}, set that name"

"""Models of many tools are served correctly, or refused in one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.trials.field.case import Case
from scripts.trials.field.models import CASES
from scripts.trials.field.models.constant import anchors, rows, save
from serve_app.config import DetectorArgs, ModelArgs
from serve_app.detections import label_of
from serve_app.errors import ModelError
from serve_app.inference import model_runner
from serve_app.inference.model_runner import ModelRunner
from serve_app.models.engines.metadata import Metadata
from serve_app.models.failures import model_errors
from serve_app.models.heads import recognise, to_rows
from serve_app.models.load import load
from serve_app.schemas.models import ModelStatus
from serve_app.types import DetectOptions, DetectorState, InputShape, ModelInfo
from tests.conftest import needs_shared
from tests.support.paths import SHARED

OPTIONS = DetectOptions(confidence=0.5, iou=0.7, max_detections=300)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.kind}: {case.member}") for case in CASES if case.is_quick]
)
def test_a_model_is_served_correctly_or_refused_in_one_sentence(case: Case) -> None:
    assert case.problem("") is None


@needs_shared
@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_a_repeated_class_name_and_a_name_with_a_comma_can_be_requested(engine: str) -> None:
    loaded = load(ModelArgs(weights=SHARED / "field" / "names_twice.onnx", engine=engine), has_gpu=False)
    model = ModelInfo(loaded.info, "1", OPTIONS)
    assert model.class_ids(("car",)) == (2, 3)
    assert model.class_ids(("person, sitting",), may_be_lists=True) == (4,)


@needs_shared
@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_an_rtdetr_from_the_field_is_refused(engine: str) -> None:
    with pytest.raises(ModelError, match="RT-DETR"):
        load(ModelArgs(weights=SHARED / "field" / "rtdetr_like.onnx", engine=engine), has_gpu=False)


@pytest.mark.parametrize(
    ("output", "classes", "head"),
    [
        ((1, 84, 8400), 80, "anchors"),
        ((1, 5, 8400), 1, "anchors"),
        ((1, 6, 8400), 2, "anchors"),
        ((1, 300, 6), 80, "rows"),
        ((1, 1, 6), 80, "rows"),
        ((1, 3000, 6), 1, "rows"),
        ((1, 25200, 85), 80, "objectness"),
        ((1, 25200, 6), 1, "objectness"),
        ((1, 25500, 85), 80, "objectness"),  # the head has a fourth level, with stride 64
    ],
)
def test_a_head_is_recognised_by_the_shape_of_its_output(output: tuple[int, ...], classes: int, head: str) -> None:
    metadata = Metadata("detect", tuple(map(str, range(classes))))
    assert recognise([output], metadata, InputShape(640, 640), is_end_to_end=False) == head


def test_metadata_that_say_end_to_end_override_the_shape() -> None:
    assert recognise([(1, 8400, 6)], Metadata("detect", ("a",)), InputShape(640, 640), is_end_to_end=True) == "rows"


def test_the_confidence_of_a_head_with_objectness_is_objectness_times_best_score() -> None:
    raw = np.array([[50, 60, 20, 40, 0.9, 0.2, 0.8], [9, 9, 2, 2, 0.005, 1, 1]], np.float32)
    np.testing.assert_allclose(to_rows(raw), [[40, 40, 60, 80, 0.72, 1]])


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (MemoryError(), "too little memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "too little memory"),
        (RuntimeError("std::bad_alloc"), "too little memory"),
        (PermissionError(13, "Permission denied", "/a/b"), "cannot be used"),
        (
            RuntimeError("Exception from src/core.cpp:1:\nCheck 'x' failed at y.cpp:2:\nNo such layout\n\n"),
            "cannot be loaded: RuntimeError: No such layout$",
        ),
        (KeyError("names"), "cannot be loaded: KeyError: 'names'"),
        (ValueError(), "cannot be loaded: ValueError: no reason given"),
    ],
)
def test_every_library_error_becomes_one_sentence(raised: Exception, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as refusal, model_errors():
        raise raised
    assert "\n" not in refusal.value.detail


@pytest.mark.anyio
async def test_too_little_memory_for_a_batch_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warm_up(*_: object) -> float:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(model_runner, "_warm_up", warm_up)
    args = DetectorArgs.model_validate({"model": {"weights": str(save(tmp_path / "a.onnx", anchors())), "threads": 1}})
    with pytest.raises(ModelError, match=r"lower batcher\.max_batch_size"):
        await ModelRunner.load(args, has_gpu=False, on_batch=lambda _: None)


def test_built_in_suppression_and_a_rectangular_input_are_reported(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", rows(), metadata={"args": "{'nms': True}"}, sides=(1, 3, 64, 96))
    info = load(ModelArgs(weights=path, threads=1), has_gpu=False).info
    shown = ModelStatus.of("default", DetectorState(ModelInfo(info, "1", OPTIONS)))
    assert (shown.suppression, shown.input_height_px, shown.input_width_px) == ("in_file", 64, 96)


def test_a_class_without_a_name_is_labelled_by_its_id(tmp_path: Path) -> None:
    info = load(ModelArgs(weights=save(tmp_path / "a.onnx", rows()), threads=1), has_gpu=False).info
    assert [label_of(class_id, info.labels) for class_id in (1, 7, -1)] == ["car", "class 7", "class -1"]


def test_a_hash_for_a_folder_is_refused(squares_model: Path) -> None:
    """A hash for a folder is an error, because the hash would not be checked."""
    with pytest.raises(ModelError, match="is a folder: remove this setting"):
        load(ModelArgs(weights=squares_model, weights_sha256="0" * 64), has_gpu=False)

"""Checks that a model is served correctly, or refused with one sentence of advice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from scripts.trials.field.models.constant import BOX, CONFIDENCE
from serve_app.config import ModelArgs
from serve_app.detections import label_of
from serve_app.errors import ModelError
from serve_app.models.engines import Engine
from serve_app.models.load import load
from serve_app.models.tasks import to_detections
from serve_app.types import DetectOptions

EngineName = Literal["openvino", "onnx", "torch", "tensorrt"]
Problem = Callable[[str], str | None]
Make = Callable[[Path], Path]  # takes an empty folder; returns the path of the model that it makes there

CPU_ENGINES: tuple[EngineName, ...] = ("openvino", "onnx")
_OPTIONS = DetectOptions(confidence=0.5, iou=0.7, max_detections=300)
_MAX_SENTENCE = 500  # in characters; a longer text is probably the raw message of a library


def served(
    make: Make, *, engines: Sequence[EngineName] = CPU_ENGINES, label: str = "car", or_says: str | None = None
) -> Problem:
    """Return a function that checks that each engine serves the model and detects exactly the expected object.

    Some CPUs cannot run some models with OpenVINO. ``or_says`` matches the error that OpenVINO may give on such a CPU.
    """

    def problem(_: str) -> str | None:
        for engine in engines:
            with TemporaryDirectory() as folder:
                try:
                    loaded = load(ModelArgs(weights=make(Path(folder)), engine=engine, threads=1), has_gpu=False)
                    wrong = _wrong_answer(loaded, label)
                except Exception as exc:
                    may_refuse = engine == "openvino" and or_says is not None and isinstance(exc, ModelError)
                    wrong = _wrong_sentence(str(exc), str(or_says)) if may_refuse else f"{type(exc).__name__}: {exc}"
            if wrong:
                return f"{engine}: {wrong}"
        return None

    return problem


def refused(make: Make, says: str, *, engines: Sequence[EngineName] = CPU_ENGINES) -> Problem:
    """Return a function that checks that each engine refuses the model in one sentence.

    The sentence must match ``says``.
    """
    return lambda _: _problem_of_refusal(make, says, engines, is_trusted=False)


def refused_checkpoint(make: Make, says: str) -> Problem:
    """Return a function that checks that the torch engine refuses a trusted ``.pt`` file in one sentence.

    The sentence must match ``says``.
    """
    return lambda _: _problem_of_refusal(make, says, ["torch"], is_trusted=True)


def _problem_of_refusal(make: Make, says: str, engines: Sequence[EngineName], *, is_trusted: bool) -> str | None:
    for engine in engines:
        with TemporaryDirectory() as folder:
            weights = make(Path(folder))
            sha256 = hashlib.sha256(weights.read_bytes()).hexdigest() if is_trusted else None
            try:
                load(ModelArgs(weights=weights, weights_sha256=sha256, engine=engine, threads=1), has_gpu=False)
                wrong: str | None = "it is served"
            except ModelError as exc:
                wrong = _wrong_sentence(exc.detail, says)
            except Exception as exc:
                wrong = f"it raises {type(exc).__name__}: {exc}"
        if wrong:
            return f"{engine}: {wrong}"
    return None


def _wrong_answer(engine: Engine, label: str) -> str | None:
    """Return what is wrong, or None if exactly the expected object is detected in every image."""
    frames = [np.full(engine.info.input_shape.array, value, np.uint8) for value in (0, 200)]
    for raw in engine.infer(frames):
        found = to_detections(raw, engine.info, _OPTIONS)
        labels = [label_of(class_id, engine.info.labels) for class_id in found.class_id.tolist()]
        if labels != [label]:
            return f"it detects {labels}, and should detect {[label]}"
        if not np.allclose(found.xyxy[0], BOX, atol=0.5):
            return f"its box is {found.xyxy[0].tolist()}, and should be {list(BOX)}"
        if abs(float(found.confidence[0]) - CONFIDENCE) > 0.01:
            return f"its confidence is {found.confidence[0]:.2f}, and should be {CONFIDENCE}"
    return None


def _wrong_sentence(sentence: str, says: str) -> str | None:
    if not re.search(says, sentence):
        return f"the sentence is {sentence!r}"
    if "\n" in sentence or len(sentence) > _MAX_SENTENCE:
        return f"it is not a single sentence: {sentence!r}"
    return None

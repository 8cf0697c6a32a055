"""Find out what a server computes: the file of its model, the precision of its convolutions, and the input's shapes.

The precision is read from the compiled model, because OpenVINO computes in bf16 by itself on a CPU with AMX.

The program reads a ``Question`` as JSON from stdin, loads the model as the server does, and prints a ``Computed`` as
JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = Path(__file__).with_name("peers")
_NAMES = {"f32": "fp32", "f16": "fp16", "u8": "int8", "i8": "int8"}  # from OpenVINO's names to ours


@dataclass(frozen=True)
class Computed:
    """What a server computes."""

    file: str  # the name of the model's file or folder
    precision: str  # of most convolutions
    input_shapes: list[str]  # for Sightline, all shapes; for another server, those that the images have


@dataclass(frozen=True)
class Question:
    """A model as a server loads it. Either ``model`` or ``weights`` is set."""

    model: dict[str, Any] | None = None  # Sightline's ``model:`` section
    weights: str | None = None  # the file that another server loads with Ultralytics
    pictures: str = ""  # the folder of images that the other server gets


def ask(question: Question, environment: Mapping[str, str] | None = None) -> Computed:
    """Answer the question in a new process, with these environment variables."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(dataclasses.asdict(question)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    return Computed(**json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def recorded() -> Iterator[list[Any]]:
    """Yield a list to which every model that OpenVINO compiles in the ``with`` block is added."""
    import openvino as ov

    original, models = ov.Core.compile_model, []

    def compile_model(core: Any, *args: Any, **options: Any) -> Any:
        models.append(original(core, *args, **options))
        return models[-1]

    ov.Core.compile_model = compile_model
    try:
        yield models
    finally:
        ov.Core.compile_model = original


def precision_of(models: Iterable[Any]) -> str:
    """Return the number type in which most convolutions of OpenVINO's compiled models read their input.

    OpenVINO documents the keys ``layerType`` and ``runtimePrecision`` in its guide to the runtime model
    (docs.openvino.ai, "Debug Capabilities", ``get_runtime_model``). Return "" if there is no convolution.
    """
    counts: Counter[str] = Counter()
    for model in models:
        for operation in model.get_runtime_model().get_ordered_ops():
            info = operation.get_rt_info()
            if info["layerType"].astype(str) in ("Convolution", "GroupConvolution"):
                counts[info["runtimePrecision"].astype(str)] += 1
    return _NAMES.get(most := next(iter(dict(counts.most_common(1))), ""), most)


def _sightline(model: dict[str, Any]) -> Computed:
    import torch

    from serve_app.config import ModelArgs
    from serve_app.models.load import load

    with recorded() as models:
        info = load(ModelArgs.model_validate(model), has_gpu=torch.cuda.is_available()).info
    return Computed(
        Path(str(model["weights"])).name, precision_of(models) or info.precision, [str(shape) for shape in info.shapes]
    )


def _ultralytics(weights: str, pictures: Path) -> Computed:
    sys.path.insert(0, str(PEERS))
    from ultralytics import YOLO

    __import__("precision")  # the module of the other servers, which applies the variable PRECISION
    shapes: Counter[str] = Counter()
    with recorded() as models:
        yolo = YOLO(weights, task="detect")
        for path in sorted(pictures.iterdir()):
            yolo.predict(path, imgsz=640, verbose=False)
            if not shapes:  # the network exists only after the first image
                yolo.predictor.model.register_forward_pre_hook(
                    lambda _, inputs: shapes.update(["x".join(map(str, inputs[0].shape[2:]))])
                )
                yolo.predict(path, imgsz=640, verbose=False)
    precision = precision_of(models) or ("fp16" if yolo.predictor.model.fp16 else "fp32")
    return Computed(Path(weights).name, precision, [shape for shape, _ in shapes.most_common()])


def _answer(question: Question) -> Computed:
    if question.model is not None:
        return _sightline(question.model)
    return _ultralytics(str(question.weights), Path(question.pictures))


if __name__ == "__main__":
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")
    print(json.dumps(dataclasses.asdict(_answer(Question(**json.load(sys.stdin))))))

"""The TensorRT engine, the fastest on an NVIDIA GPU. Ultralytics builds and runs its ``.engine`` file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics.nn.backends.tensorrt import TensorRTBackend

from serve_app.errors import ModelError
from serve_app.models.engines import ModelFile
from serve_app.models.engines.device import ExecutionContext, to_input, to_rows
from serve_app.models.engines.metadata import is_end_to_end, read_labels, read_stride
from serve_app.models.heads import recognise
from serve_app.models.shapes import rectangles
from serve_app.types import EngineInfo, Pixels, Precision


class TensorRtEngine:
    """Engine that runs up to ``max_batch_size`` frames at once. Raise ModelError when the file cannot be read.

    Ultralytics builds the file for batches of up to our maximum, and for sides from 32 px up to twice those of
    ``file.input_shape``. It reserves memory for the largest. Rectangles need no profile of their own.
    """

    concurrency = 1
    takes_batches = True
    preparation = None

    def __init__(self, file: ModelFile, *, precision: Precision, max_batch_size: int) -> None:
        try:
            self._backend = TensorRTBackend(file.path, torch.device("cuda"))
        except Exception as exc:  # TensorRT's errors have no common base class
            raise ModelError(
                f"TensorRT cannot read {file.path.name} ({type(exc).__name__}): delete it from model.cache_dir to "
                "build it again"
            ) from exc
        metadata = self._backend.metadata
        labels = read_labels(metadata)
        shapes = [[1, *self._backend.bindings[name].shape[1:]] for name in self._backend.output_names]
        head = recognise(shapes, labels, file.input_shape, is_end_to_end=is_end_to_end(metadata))
        is_rectangular = file.rectangular and self._backend.dynamic
        self.info = EngineInfo(
            name=file.name,
            version=file.version,
            engine="tensorrt",
            precision=precision,
            labels=labels,
            input_shape=file.input_shape,
            end_to_end=head == "rows",
            rectangles=rectangles(file.input_shape, read_stride(metadata)) if is_rectangular else (),
        )
        self._dtype = torch.float16 if self._backend.fp16 else torch.float32
        self._context = ExecutionContext(
            self._step, torch.device("cuda"), input_shape=file.input_shape, max_batch_size=max_batch_size
        )

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[NDArray[np.float32]]:
        """Run the model on frames: see ``Engine``."""
        return self._context.infer(frames)

    def _step(self, frames: torch.Tensor) -> torch.Tensor:
        (raw, *_) = self._backend.forward(to_input(frames, self._dtype).contiguous())
        return raw.float() if self.info.end_to_end else to_rows(raw)

"""The TensorRT engine, the fastest on an NVIDIA GPU. Ultralytics builds and runs its ``.engine`` file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ultralytics.nn.backends.tensorrt import TensorRTBackend

from serve_app.errors import ModelError
from serve_app.models.engines import ModelFile, RawOutput
from serve_app.models.engines.device import ExecutionContext, to_input, to_outputs
from serve_app.models.engines.metadata import is_end_to_end, read_input_shape, read_metadata, read_stride
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
        properties = self._backend.metadata
        self._metadata = metadata = read_metadata(properties)
        shape = read_input_shape(properties, file.input_shape)
        shapes = [[1, *self._backend.bindings[name].shape[1:]] for name in sorted(self._backend.output_names)]
        self._head = recognise(shapes, metadata, shape, is_end_to_end=is_end_to_end(properties))
        is_rectangular = file.rectangular and self._backend.dynamic and metadata.takes_rectangles
        self.info = EngineInfo(
            name=file.name,
            version=file.version,
            engine="tensorrt",
            precision=precision,
            labels=metadata.labels,
            input_shape=shape,
            end_to_end=self._head == "rows",
            rectangles=rectangles(shape, read_stride(properties)) if is_rectangular else (),
            task=metadata.task,
            keypoints=metadata.keypoints,
            numbers_per_keypoint=metadata.numbers_per_keypoint,
        )
        self._dtype = torch.float16 if self._backend.fp16 else torch.float32
        self._context = ExecutionContext(
            self._step, torch.device("cuda"), input_shape=shape, max_batch_size=max_batch_size
        )

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[RawOutput]:
        """Run the model on frames: see ``Engine``."""
        return self._context.infer(frames)

    def _step(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raw = self._backend.forward(to_input(frames, self._dtype).contiguous())
        return to_outputs(raw, self._metadata, self._head)

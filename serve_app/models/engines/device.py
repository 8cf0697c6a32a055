"""Copy frames to a GPU and rows of results back, for all GPU engines. The same code also runs on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.types import InputShape, Pixels

Step = Callable[[torch.Tensor], torch.Tensor]  # (n, height, width, 3) uint8 BGR -> (n, rows, 6), on the device


class ExecutionContext:
    """The resources that run a batch on the device: pinned memory for its frames, a CUDA stream, and ``step``.

    The function ``step`` runs the network and returns rows of results.
    A batch is copied to the device in one transfer, and its small result is copied back in another. Only one thread may
    use a context at a time.
    """

    def __init__(
        self,
        step: Step,
        device: torch.device,
        *,
        input_shape: InputShape,
        max_batch_size: int,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        """Allocate the memory for a batch of the largest shape, ``input_shape``.

        ``stream``: None means the default stream of the device.
        """
        size = max_batch_size * input_shape.nbytes
        self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._step = step
        self._device = device
        self._stream = stream

    def infer(self, frames: Sequence[Pixels]) -> list[NDArray[np.float32]]:
        """Return the rows of each frame, in order: see ``to_rows``. All frames have the same shape."""
        gathered = as_batch(self._memory, len(frames), frames[0].shape)
        batch = gathered.numpy()
        for number, frame in enumerate(frames):
            batch[number] = frame
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            rows = self._step(gathered.to(self._device, non_blocking=True))
            return list(rows.cpu().numpy())


def as_batch(memory: torch.Tensor, count: int, shape: Sequence[int]) -> torch.Tensor:
    """Return the start of ``memory``, a one-dimensional tensor, as a batch of ``count`` frames of this shape."""
    return memory[: count * math.prod(shape)].view(count, *shape)


def to_input(frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert frames to network input: ``(n, 3, height, width)``, RGB, 0 to 1, channels last in memory."""
    # channels_last means NHWC in memory, so the permuted view costs nothing.
    return frames.flip(-1).permute(0, 3, 1, 2).to(dtype).div_(255)


def to_rows(raw: torch.Tensor) -> torch.Tensor:
    """Return each anchor's box and best class, ``(n, anchors, 6)``: left, top, right, bottom, confidence, class id.

    ``raw`` is ``(n, 4 + classes, anchors)``: see ``models.tasks.detect``. With 80 classes, the rows are 14 times
    smaller than ``raw``, so less is copied from the device. Thresholds and NMS are applied by ``models.tasks.detect``,
    because they differ between images.
    """
    confidence, class_id = raw[:, 4:].max(1)
    centre, size = raw[:, :4].float().chunk(2, 1)
    tags = torch.stack([confidence.float(), class_id.float()], 1)
    return torch.cat([centre - size / 2, centre + size / 2, tags], 1).transpose(1, 2)


def gpu_name() -> str:
    """Return the GPU's name with underscores for spaces, so that a file name can contain it."""
    return str(torch.cuda.get_device_name()).replace(" ", "_")

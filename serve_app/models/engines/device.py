"""Copy frames to a GPU and rows of results back, for all GPU engines. The same code also runs on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from serve_app.models.engines import RawOutput
from serve_app.models.engines.metadata import Metadata
from serve_app.models.heads import Head
from serve_app.types import InputShape, Pixels

Step = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]  # (n, height, width, 3) uint8 BGR -> outputs, on the device


class ExecutionContext:
    """The resources that run a batch on the device: pinned memory for its frames, a CUDA stream, and ``step``.

    The function ``step`` runs the network and returns its outputs, each with one item for each frame. A batch is copied
    to the device in one transfer, and its results are copied back in others. Only one thread may use a context at a
    time.
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

    def infer(self, frames: Sequence[Pixels]) -> list[RawOutput]:
        """Return the outputs for each frame, in order: see ``to_outputs``. All frames have the same shape."""
        gathered = as_batch(self._memory, len(frames), frames[0].shape)
        batch = gathered.numpy()
        for number, frame in enumerate(frames):
            batch[number] = frame
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            outputs = self._step(gathered.to(self._device, non_blocking=True))
            arrays = [output.cpu().numpy() for output in outputs]
        return list(zip(*arrays, strict=True))


def as_batch(memory: torch.Tensor, count: int, shape: Sequence[int]) -> torch.Tensor:
    """Return the start of ``memory``, a one-dimensional tensor, as a batch of ``count`` frames of this shape."""
    return memory[: count * math.prod(shape)].view(count, *shape)


def to_input(frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert frames to network input: ``(n, 3, height, width)``, RGB, 0 to 1, channels last in memory."""
    # channels_last means NHWC in memory, so the permuted view costs nothing.
    return frames.flip(-1).permute(0, 3, 1, 2).to(dtype).div_(255)


def to_outputs(raw: Sequence[torch.Tensor], metadata: Metadata, head: Head) -> tuple[torch.Tensor, ...]:
    """Return the outputs that are copied from the device, in fp32. ``raw``: the outputs of the network.

    The candidates of a head with anchors become rows, which are smaller: see ``to_rows``.
    """
    first, *others = raw[: metadata.outputs]
    if head == "anchors":
        first = to_rows(first, len(metadata.labels), rotated=metadata.task == "obb")
    return first.float(), *(other.float() for other in others)


def to_rows(raw: torch.Tensor, classes: int, *, rotated: bool = False) -> torch.Tensor:
    """Return each anchor's box and best class, ``(n, anchors, 6 + extras)``, as rows.

    ``raw`` is ``(n, 4 + classes + extras, anchors)``. ``models.tasks.candidates`` describes both layouts. With 80
    classes, the rows of a detection model are 14 times smaller than ``raw``, so less is copied from the device.
    Thresholds and NMS are applied by ``models.tasks``, because they differ between images.
    """
    confidence, class_id = raw[:, 4 : 4 + classes].max(1)
    centre, size = raw[:, :4].float().chunk(2, 1)
    boxes = [centre, size] if rotated else [centre - size / 2, centre + size / 2]
    tags = torch.stack([confidence.float(), class_id.float()], 1)
    return torch.cat([*boxes, tags, raw[:, 4 + classes :].float()], 1).transpose(1, 2)


def gpu_name() -> str:
    """Return the GPU's name with underscores for spaces, so that a file name can contain it."""
    return str(torch.cuda.get_device_name()).replace(" ", "_")

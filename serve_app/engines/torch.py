"""PyTorch, the engine on a GPU (fp16, channels last) and the reference on a CPU (fp32): reads a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.engines.ultralytics import load_network
from serve_app.errors import ModelError
from serve_app.types import ModelInfo, Pixels, Precision

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """One batch, one forward pass. Raises ModelError for a checkpoint that is no detection model."""

    concurrency = 1
    takes_batches = True

    def __init__(
        self, path: Path, *, name: str, version: str, size_px: int, precision: Precision, threads: int, on_gpu: bool
    ) -> None:
        if precision == "auto":
            precision = "fp16" if on_gpu else "fp32"
        if precision not in _DTYPES or (precision == "fp16" and not on_gpu):
            raise ModelError(f"the torch engine does not compute in {precision} on a {'GPU' if on_gpu else 'CPU'}")
        if on_gpu and not torch.cuda.is_available():
            raise ModelError("Ray gave this Detector a GPU, but PyTorch cannot use it")
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._dtype = _DTYPES[precision]
        if not on_gpu:
            torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1 for an actor that asks for less than a core
        network, labels = load_network(path)
        end_to_end = bool(getattr(network, "end2end", False))
        network = network.fuse(verbose=False).eval().requires_grad_(False)
        self._network = network.to(self._device, self._dtype, memory_format=torch.channels_last)
        self.info = ModelInfo(
            name=name,
            version=version,
            engine="torch",
            precision=precision,
            labels=labels,
            size_px=size_px,
            end_to_end=end_to_end,
        )

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[NDArray[np.float32]]:
        """See ``Engine``."""
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(frames)).to(self._device)
            # NHWC in memory is what channels_last means: the permuted view costs nothing.
            batch = batch.flip(-1).permute(0, 3, 1, 2).to(self._dtype).div_(255)
            raw = self._network(batch)
            raw = raw[0] if isinstance(raw, (list, tuple)) else raw
            return list(raw.float().cpu().numpy())
